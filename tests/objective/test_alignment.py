"""Terms between models with different tokenizers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import kd_lightning as kd
from kd_lightning.core.errors import MatchError
from kd_lightning.objective.alignment import mean_by_word, membership

from ..toys import bert, ready, trainer, weights


def by_hand(x: Tensor, ids: Tensor, words: int) -> Tensor:
    """Oracle: loops over rows and words."""
    out = torch.zeros(len(x), words, x.shape[-1], dtype=x.dtype)
    for row in range(len(x)):
        for word in range(words):
            tokens = [i for i, number in enumerate(ids[row].tolist()) if number == word]
            if tokens:
                out[row, word] = sum(x[row, i] for i in tokens) / len(tokens)
    return out


def batch(seed: int = 0) -> dict[str, Any]:
    """Two rows; the student cuts them into up to 6 tokens, the teacher into up to 4; the second row is shorter."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.tensor([[0, 1, 1, 2, 3, -1], [0, 1, 2, -1, -1, -1]])
    other = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -1]])
    parts = {"student": own, "teacher": other}
    made: dict[str, Any] = {"labels": torch.tensor([0, 1])}
    for role, ids in parts.items():
        mask = torch.ones_like(ids)
        mask[1, 4 if role == "student" else 3 :] = 0
        made[role] = {
            "input_ids": torch.randint(1, 30, ids.shape, generator=generator),
            "attention_mask": mask,
            "word_ids": ids,
        }
    return made


def term(loss: Any, student: str = "hidden.1", teacher: str = "hidden.2", **options: Any) -> kd.Term:
    return kd.Term(kd.Match(student, teacher), loss, **options)


def features(seed: int = 0, width: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    return {"hidden.1": torch.randn(2, 6, width, requires_grad=True)}, {"hidden.2": torch.randn(2, 4, width)}


def test_the_mean_of_each_word_is_that_of_loops_in_value_and_gradient():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    ids = batch()["student"]["word_ids"]
    torch.testing.assert_close(mean_by_word(x, ids, 4), by_hand(x, ids, 4))
    assert torch.autograd.gradcheck(lambda x: mean_by_word(x, ids, 4), (x,))
    assert membership(ids, 4).any(-1).tolist() == [[True] * 4, [True, True, True, False]]


def test_what_tokens_of_no_word_hold_has_no_influence():
    ids = batch()["student"]["word_ids"]
    x = torch.randn(2, 6, 5)
    garbage = x.masked_fill((ids < 0)[..., None], float("nan"))
    assert torch.equal(mean_by_word(garbage, ids, 4), mean_by_word(x, ids, 4))


def test_hidden_states_are_compared_word_by_word():
    data = batch()
    student, teacher = features()
    value, count = term(kd.losses.HiddenMSE())(student, teacher, data)
    own = by_hand(student["hidden.1"], data["student"]["word_ids"], 4)
    other = by_hand(teacher["hidden.2"], data["teacher"]["word_ids"], 4)
    squares = [(own[r, w] - other[r, w]).square().mean() for r, n in ((0, 4), (1, 3)) for w in range(n)]
    torch.testing.assert_close(value, torch.stack(squares).mean())
    assert float(count) == 7


def test_tokens_that_are_words_on_both_sides_are_compared_as_ever():
    data = batch()
    data["student"] = dict(data["teacher"])
    student, teacher = {"hidden.1": torch.randn(2, 4, 5)}, {"hidden.2": torch.randn(2, 4, 5)}
    value, _ = term(kd.losses.HiddenMSE())(student, teacher, data)
    plain, _ = term(kd.losses.HiddenMSE())(student, teacher, dict(data["teacher"]))
    torch.testing.assert_close(value, plain)


@pytest.mark.parametrize("loss", [kd.losses.HiddenCosine(), kd.losses.PKD()])
def test_other_losses_on_hidden_states_take_words_too(loss):
    value, _ = term(loss)(*features(), batch())
    assert torch.isfinite(value)
    value.backward()


def test_losses_over_pairs_of_layers_take_words_too():
    torch.manual_seed(0)
    match = kd.Match(["hidden.1", "hidden.1"], ["hidden.2", "hidden.2"])
    value, _ = kd.Term(match, kd.losses.NST())(*features(), batch())
    assert torch.isfinite(value)


def test_logits_of_rows_need_no_alignment():
    logits = {"logits": torch.randn(2, 3)}
    data = batch()
    aligned, _ = term(kd.losses.SoftTarget(), "logits", "logits")(logits, {"logits": torch.zeros(2, 3)}, data)
    plain, _ = term(kd.losses.SoftTarget(), "logits", "logits")(logits, {"logits": torch.zeros(2, 3)}, data["student"])
    assert torch.equal(aligned, plain)


@pytest.mark.parametrize(("address", "shape"), [("attention.1", (2, 2, 6, 6)), ("start_logits", (2, 6))])
def test_what_cannot_be_aligned_is_a_sentence(address, shape):
    own, other = torch.rand(shape), torch.rand([4 if n == 6 else n for n in shape])
    with pytest.raises(MatchError, match="cannot be compared across two tokenizers"):
        term(kd.losses.AttentionMSE(), address, address)({address: own}, {address: other}, batch())


def test_a_student_with_another_tokenizer_learns_from_its_teachers_hidden_states(tmp_path):
    objective = kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
        }
    )
    module = kd.DistillationModule(bert(2), bert(4, 24, seed=1), objective, partial(torch.optim.SGD, lr=0.1))
    before = weights(module)
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(module, ready([batch(seed) for seed in range(3)]), ready([batch(9)]))
    assert torch.isfinite(runner.callback_metrics["val/loss"])
    assert not torch.equal(
        module.objective.terms["hidden_2"].projection.weight, before["objective.terms.hidden_2.projection.weight"]
    )


def test_two_resolutions_feed_two_models():
    """Images of another size for each model: logits and whole-image features are compared as they are."""
    from transformers import ViTConfig, ViTForImageClassification

    def vit(size: int, width: int) -> Any:
        config = ViTConfig(
            image_size=size, patch_size=8, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, num_labels=3,
        )  # fmt: skip
        return ViTForImageClassification(config)

    torch.manual_seed(0)
    objective = kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0)),
            "first": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.PKD(), projection="linear"),
        }
    )
    module = kd.DistillationModule(vit(16, 8), vit(32, 16), objective)
    images = torch.rand(2, 3, 32, 32)
    small = torch.nn.functional.interpolate(images, size=16)
    data = {"student": {"pixel_values": small}, "teacher": {"pixel_values": images}, "labels": torch.tensor([0, 1])}
    report = module.compare(data)
    assert all(torch.isfinite(part) for part in report.parts.values())
    wrong = kd.Objective({"all": kd.Term(kd.Match("hidden.1", "hidden.2"), kd.losses.HiddenMSE(), projection="linear")})
    with pytest.raises(MatchError, match="shape"):
        kd.DistillationModule(vit(16, 8), vit(32, 16), wrong).compare(data)
