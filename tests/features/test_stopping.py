"""A teacher's pass ends with the deepest feature that is requested, and the features stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kd_lightning as kd
from kd_lightning.features import FeatureTap, model_info
from kd_lightning.teachers import EnsembleTeacher, LiveTeacher

from ..toys import mlp, pairs


class Calls:
    """Counts a module's forward passes, by a wrapper around a class's forward that leaves instances untouched."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type[nn.Module]) -> None:
        self.number, forward = 0, kind.forward

        def counted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.number += 1
            return forward(module, *args, **kwargs)

        patch.setattr(kind, "forward", counted)

    def of(self, function: Callable[[], Any]) -> int:
        before = self.number
        function()
        return self.number - before


def teacher_of(model: nn.Module, addresses: Sequence[str]) -> LiveTeacher:
    teacher = LiveTeacher(model)
    teacher.ask(addresses)
    return teacher


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain(model: nn.Module, addresses: Sequence[str], batch: Any) -> Any:
    with torch.no_grad(), FeatureTap(model, addresses) as tap:
        model(**batch)
        return tap.take()


def layer_addresses(family: Any, model: nn.Module) -> list[str]:
    found = []
    for stack in family.stacks:
        prefix = f"{stack}." if stack else ""
        found += [f"{prefix}hidden.{k}" for k in range(model_info(model).layers(stack) + 1)]
        found += [f"{prefix}attention.{k}" for k in range(1, model_info(model).layers(stack) + 1)]
        if family.has_interface:
            found += [f"{prefix}{kind}.2" for kind in ("scores", "query")]
    return found


def test_stopped_features_are_exactly_those_of_a_whole_pass(family: Any, hooks_of: Any) -> None:
    model, batch = family.build(), family.batch()
    addresses = layer_addresses(family, model)
    for wanted in [*([address] for address in addresses), addresses[:3], addresses]:
        expected = plain(model, wanted, batch)
        teacher = teacher_of(model, wanted)
        for _ in range(3):
            assert equal(teacher(batch), expected), wanted
        assert hooks_of(model) == 0


LAYERS = {
    "bert": ("BertLayer", ["hidden.1"], 3, 1),
    "bert_deep": ("BertLayer", ["hidden.0", "attention.2"], 3, 2),
    "albert": ("AlbertLayer", ["hidden.2"], 3, 2),
    "gpt2": ("GPT2Block", ["hidden.2"], 3, 2),
    "t5": ("T5Block", ["encoder.hidden.3"], 5, 3),
    "bart": ("BartDecoderLayer", ["encoder.hidden.1", "encoder.scores.2"], 2, 0),
    "deberta": ("DebertaV2Layer", ["hidden.1"], 3, 1),
    "vit": ("ViTLayer", ["hidden.0"], 3, 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_unneeded_layer_runs(name: str, families: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, addresses, whole, part = LAYERS[name]
    family = families[name.partition("_")[0]]
    model, batch = family.build(), family.batch()
    layer = next(type(module) for module in model.modules() if type(module).__name__ == kind)
    calls, teacher = Calls(monkeypatch, layer), teacher_of(model, addresses)
    assert calls.of(lambda: teacher(batch)) == whole  # the first pass shows that nothing arrives twice
    # a layer whose kernel or input is noted begins, and does not end
    assert calls.of(lambda: teacher(batch)) == part
    assert calls.of(lambda: teacher(batch)) == part


def test_a_last_hidden_state_after_the_final_norm_spares_the_language_models_head(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = families["gpt2"].build(), families["gpt2"].batch()
    teacher = teacher_of(model, ["hidden.3"])
    calls = Calls(monkeypatch, type(model.lm_head))
    assert calls.of(lambda: teacher(batch)) == 1
    assert calls.of(lambda: teacher(batch)) == 0
    assert torch.equal(teacher(batch)["hidden.3"], model.transformer(**batch).last_hidden_state)


@pytest.mark.parametrize("addresses", [["hidden.1", "logits"], ["bert.encoder.layer.0"], ["hidden.1", "classifier:in"]])
def test_outputs_and_module_paths_take_the_whole_pass(
    addresses: list[str], families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    calls, teacher = Calls(monkeypatch, type(model.bert.encoder.layer[0])), teacher_of(model, addresses)
    assert [calls.of(lambda: teacher(batch)) for _ in range(2)] == [3, 3]
    assert equal(teacher(batch), plain(model, addresses, batch))


def test_a_model_whose_forward_is_the_users_takes_the_whole_pass(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Siamese(nn.Module):
        def __init__(self, bert: nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.bert(input_ids, attention_mask)
            return self.bert(input_ids.flip(0), attention_mask.flip(0))

    model, batch = Siamese(families["bert"].build()), families["bert"].batch()
    teacher = teacher_of(model, ["hidden.1"])
    for _ in range(2):
        assert equal(teacher(batch), plain(model, ["hidden.1"], batch))  # the second call's
    sequential = teacher_of(mlp(5), ["0"])
    calls = Calls(monkeypatch, nn.Tanh)
    assert [calls.of(lambda: sequential(pairs())) for _ in range(2)] == [1, 1]


def test_a_transformers_model_that_runs_its_layers_twice_takes_the_whole_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ViltConfig, ViltForImagesAndTextClassification
    from transformers.models.vilt.modeling_vilt import ViltLayer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViltConfig(**sizes, image_size=8, patch_size=4, num_images=2, modality_type_vocab_size=3, vocab_size=50)
    model = ViltForImagesAndTextClassification(config).eval()
    batch = {"input_ids": torch.ones(1, 4, dtype=torch.long), "pixel_values": torch.randn(1, 2, 3, 8, 8)}
    calls, teacher = Calls(monkeypatch, ViltLayer), teacher_of(model, ["hidden.1"])
    assert [calls.of(lambda: teacher(batch)) for _ in range(3)] == [4, 4, 4]  # two layers for each of two images


@pytest.mark.parametrize("touch", ["hook", "pre-hook", "forward", "compile"])
def test_a_model_with_hooks_of_others_takes_the_whole_pass(
    touch: str, families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    calls, teacher = Calls(monkeypatch, type(model.bert.encoder.layer[0])), teacher_of(model, ["hidden.1"])
    assert [calls.of(lambda: teacher(batch)) for _ in range(2)] == [3, 1]
    match touch:
        case "hook":
            model.classifier.register_forward_hook(lambda *_: None)
        case "pre-hook":
            model.classifier.register_forward_pre_hook(lambda *_: None)
        case "forward":
            model.classifier.forward = model.classifier.forward
        case "compile":
            model.classifier.compile(backend="eager")
    assert calls.of(lambda: teacher(batch)) == 3


def test_a_wrapped_model_takes_the_whole_pass(families: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    calls = Calls(monkeypatch, type(model.bert.encoder.layer[0]))
    teacher = teacher_of(nn.DataParallel(model), ["hidden.1"])
    assert [calls.of(lambda: teacher(batch)) for _ in range(2)] == [3, 3]


def test_what_a_stop_leaves_behind_is_nothing(families: Any, hooks_of: Any) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    teacher = teacher_of(model, ["hidden.1"])
    for _ in range(2):
        teacher(batch)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert hooks_of(model) == 0
    with FeatureTap(model, ["hidden.3", "logits"]) as tap:  # the model itself is whole again
        outputs = model(**batch)
        assert torch.equal(tap.take()["logits"], outputs.logits)


def test_an_exception_of_the_models_own_passes_and_the_next_call_is_fine(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    teacher = teacher_of(model, ["hidden.2"])
    expected, _ = (teacher(batch) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(type(model.bert.encoder.layer[0]), "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            teacher(batch)
    assert equal(teacher(batch), expected)


def test_teachers_of_an_ensemble_stop_where_their_own_features_end(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert, gpt2, batch = families["bert"].build(), families["gpt2"].build(), families["bert"].batch()
    ensemble = EnsembleTeacher({"a": bert, "b": gpt2})
    ensemble.ask(["a/hidden.1", "b/hidden.2"])
    expected = ensemble(batch)
    calls = Calls(monkeypatch, type(bert.bert.encoder.layer[0])), Calls(monkeypatch, type(gpt2.transformer.h[0]))
    assert calls[0].of(lambda: calls[1].of(lambda: ensemble(batch))) == 1
    assert calls[1].number == 2
    assert equal(ensemble(batch), expected)


def test_a_students_pass_never_stops(families: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, batch = families["bert"].build(), families["bert"].build(), families["bert"].batch()
    objective = kd.Objective({"hidden": kd.Term(kd.Match("hidden.1", "hidden.1"), kd.losses.HiddenMSE())})
    module = kd.DistillationModule(student, teacher, objective)
    calls = Calls(monkeypatch, nn.Linear)
    whole = calls.of(lambda: student(**batch))
    heads = [calls.of(lambda: module(batch)) for _ in range(3)]
    assert heads == [whole] * 3


def test_with_global_module_hooks_a_pass_is_whole(families: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = families["bert"].build(), families["bert"].batch()
    calls, teacher = Calls(monkeypatch, type(model.bert.encoder.layer[0])), teacher_of(model, ["hidden.1"])
    assert [calls.of(lambda: teacher(batch)) for _ in range(2)] == [3, 1]
    with FlopCounterMode(display=False):
        assert calls.of(lambda: teacher(batch)) == 3
    assert calls.of(lambda: teacher(batch)) == 1
