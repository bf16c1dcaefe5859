"""Cutting a wide model to a narrow one. The oracle: a narrow model widened by repeating its units must be recovered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from kd_lightning import students
from kd_lightning.core.errors import ConfigError
from kd_lightning.models.copy_layers import kept_units

Make = Callable[..., PreTrainedModel]
FAMILIES = ["bert", "roberta", "electra", "distilbert", "modernbert", "deberta"]


def twice_as_wide(make_teacher: Make, family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a narrow model, and one with each of its units twice, side by side."""
    narrow = make_teacher(family)
    wide_sizes = (
        {"dim": 48, "hidden_dim": 72} if family == "distilbert" else {"hidden_size": 48, "intermediate_size": 72}
    )
    wide = make_teacher(family, **wide_sizes)
    state = narrow.state_dict()
    for name, tensor in wide.state_dict().items():
        blown = state[name]
        for axis, size in enumerate(tensor.shape):
            if size != blown.shape[axis]:
                blown = blown.repeat_interleave(2, dim=axis)
        tensor.copy_(blown)
    return narrow, wide


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_every_unit_twice_is_cut_to_the_one_it_was_made_of(make_teacher: Make, family: str) -> None:
    narrow, wide = twice_as_wide(make_teacher, family)
    depth = narrow.config.num_hidden_layers
    student = students.shrink(
        wide, hidden_size=24, intermediate_size=36, num_attention_heads=4, layers=list(range(1, depth + 1))
    )
    expected, got = narrow.state_dict(), student.state_dict()
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name


def test_fewer_heads_are_whole_heads_of_the_teacher(make_teacher: Make) -> None:
    teacher = make_teacher(num_hidden_layers=2)  # four heads of six
    student = students.shrink(teacher, hidden_size=12, num_attention_heads=2, layers=[1, 2])
    mine = student.bert.encoder.layer[1].attention.self.value.bias.view(2, 6)
    torch.nn.init.normal_(teacher.bert.encoder.layer[1].attention.self.value.bias)
    students.copy_layers(teacher, student, [1, 2])
    theirs = teacher.bert.encoder.layer[1].attention.self.value.bias.view(4, 6)
    assert torch.equal(mine, theirs[[0, 2]])


def test_larger_heads_mix_what_they_must(make_teacher: Make) -> None:
    student = students.shrink(make_teacher(), hidden_size=16, num_attention_heads=2, layers="uniform")
    assert student(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_rotary_pairs_stay_pairs(make_teacher: Make) -> None:
    wide, narrow = make_teacher("modernbert", hidden_size=80), make_teacher("modernbert", hidden_size=48)
    heads = kept_units(wide, narrow).width[80, 48].view(4, 12)  # of 20 units each
    assert torch.equal(heads[:, 6:] - heads[:, :6], torch.full((4, 6), 10))


def test_embedding_tables_are_never_cut_by_row(make_teacher: Make) -> None:
    teacher = make_teacher(vocab_size=48, max_position_embeddings=24)
    student = students.shrink(teacher, vocab_size=24, hidden_size=12, max_position_embeddings=12, layers="uniform")
    tables = student.bert.embeddings
    before = [tables.word_embeddings.weight.clone(), tables.position_embeddings.weight.clone()]
    own = students.copy_layers(teacher, student, "uniform")
    assert own == ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"]
    assert torch.equal(before[0], tables.word_embeddings.weight)
    assert torch.equal(before[1], tables.position_embeddings.weight)


def test_a_student_wider_in_one_size_only_is_refused(make_teacher: Make) -> None:
    with pytest.raises(ConfigError, match=r"'encoder.layer.0.intermediate.dense.weight' is \[48, 12\] in the student"):
        students.shrink(make_teacher(), hidden_size=12, intermediate_size=48, layers="uniform")


def test_the_cut_student_shares_nothing_with_its_teacher(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = students.shrink(teacher, hidden_size=12, layers="uniform")
    mine = {parameter.data_ptr() for parameter in student.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in teacher.parameters())


def test_sizes_that_look_alike_are_told_apart_by_what_they_are(make_teacher: Make) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 36}  # 3 · 24 = 2 · 36, as in ModernBERT-base
    teacher = make_teacher("modernbert", **sizes)
    student = students.shrink(teacher, hidden_size=12, intermediate_size=18, num_attention_heads=2, layers="uniform")
    mine = student.model.layers[0].attn.Wqkv.weight.view(3, 2, 6, 12)
    theirs = teacher.model.layers[0].attn.Wqkv.weight.view(3, 4, 6, 24)
    units = torch.cat([torch.arange(6), torch.arange(12, 18)])  # heads 0 and 2
    assert torch.equal(mine, theirs[:, [0, 2]][..., units])


def test_equal_sizes_go_by_heads(make_teacher: Make) -> None:
    wide, narrow = (
        make_teacher(hidden_size=size, intermediate_size=size, num_attention_heads=size // 6) for size in (24, 12)
    )
    assert kept_units(wide, narrow).of(24, 12, attention=False).tolist() == [*range(6), *range(12, 18)]


def test_a_student_that_loses_a_step_of_the_embeddings_is_refused(make_teacher: Make) -> None:
    teacher = make_teacher("electra", hidden_size=32)  # embeddings of 16, projected to 32
    with pytest.raises(ConfigError, match=r"no 'embeddings_project\.weight' as the teacher has"):
        students.shrink(teacher, hidden_size=16, layers="uniform")
