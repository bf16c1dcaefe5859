"""The life of a tap: entering, leaving, taking, and two of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, TappedModel, probes
from kd_lightning.features.resolver import Resolver

MIXED = ["hidden.1", "attention.2", "query.3", "hidden.3", "bert.pooler", "classifier:in", "logits"]


def test_features_are_read_once(bert: nn.Module, words: Any) -> None:
    with FeatureTap(bert, MIXED) as tap:
        bert(**words)
        assert list(tap.take()) == MIXED
        with pytest.raises(AddressError, match="have been taken"):
            tap.take()


def test_taking_before_a_forward_pass_is_an_error(bert: nn.Module, words: Any) -> None:
    tap = FeatureTap(bert, ["hidden.1"])
    with pytest.raises(AddressError, match="no forward pass"):
        tap.take()
    with tap:
        bert.bert(**words)
        with pytest.raises(AddressError, match="call the model itself, not its parts"):
            tap.take()


def test_entering_again_forgets_what_was_not_taken(bert: nn.Module, words: Any) -> None:
    tap = FeatureTap(bert, ["hidden.1"])
    with tap:
        bert(**words)
    with tap, pytest.raises(AddressError, match="no forward pass"):
        tap.take()


def test_features_may_be_taken_after_leaving(bert: nn.Module, words: Any) -> None:
    with FeatureTap(bert, ["attention.1"]) as tap:
        bert(**words)
    features = tap.take()
    features["attention.1"].pow(2).sum().backward()
    assert bert.bert.encoder.layer[0].attention.self.key.weight.grad.abs().sum() > 0


def test_the_last_of_two_forward_passes_counts(bert: nn.Module, words: Any) -> None:
    other = {name: tensor[:1, :4] for name, tensor in words.items()}
    with FeatureTap(bert, MIXED) as tap:
        bert(**words)
        bert(**other)
        second = tap.take()
        bert(**other)
        again = tap.take()
    for address in MIXED:
        assert second[address].shape[0] == 1, address
        assert torch.equal(second[address], again[address]), address


def test_the_model_is_left_as_it_was(bert: nn.Module, words: Any, hooks_of: Callable[[nn.Module], int]) -> None:
    configs = [(module, module.config) for module in bert.modules() if hasattr(module, "config")]
    tap = FeatureTap(bert, MIXED)
    for _ in range(3):
        with tap:
            assert hooks_of(bert) > 0
            bert(**words)
    assert hooks_of(bert) == 0
    assert all(module.config is config for module, config in configs)


def test_hooks_go_when_the_forward_pass_raises(
    bert: nn.Module, words: Any, hooks_of: Callable[[nn.Module], int]
) -> None:
    tap = FeatureTap(bert, MIXED)
    with pytest.raises(IndexError), tap:
        bert(input_ids=torch.full((1, 4), 99))
    assert hooks_of(bert) == 0
    with pytest.raises(AddressError, match="did not finish"):
        tap.take()
    with tap:
        bert(**words)
        assert len(tap.take()) == len(MIXED)


def test_a_failed_forward_pass_leaves_no_mixture(bert: nn.Module, words: Any) -> None:
    class Broken(RuntimeError):
        pass

    def fail(*args: Any) -> None:
        raise Broken

    with FeatureTap(bert, MIXED) as tap:
        bert(**words)
        handle = bert.bert.encoder.layer[2].register_forward_pre_hook(fail)
        with pytest.raises(Broken):
            bert(**words)
        with pytest.raises(AddressError, match="did not finish"):
            tap.take()
        handle.remove()
        bert(**words)
        assert set(tap.take()) == set(MIXED)


def test_a_hook_that_cannot_be_installed_takes_the_others_off(
    bert: nn.Module, words: Any, hooks_of: Callable[[nn.Module], int], monkeypatch: Any
) -> None:
    tap = FeatureTap(bert, ["hidden.1", "attention.2", "logits"])

    def fail(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(probes.FieldProbe, "install", fail)
        with pytest.raises(MemoryError), tap:
            pass
    assert hooks_of(bert) == 0
    assert type(bert.bert.encoder.layer[1].attention.self.config) is tf.BertConfig
    with tap:
        bert(**words)
        assert len(tap.take()) == 3


def test_a_tap_may_be_entered_within_itself(bert: nn.Module, words: Any, hooks_of: Callable[[nn.Module], int]) -> None:
    tap = FeatureTap(bert, MIXED)
    with tap:
        with tap:
            bert(**words)
        assert hooks_of(bert) > 0
        assert len(tap.take()) == len(MIXED)
    assert hooks_of(bert) == 0


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_taps_on_one_model_may_leave_in_any_order(
    bert: nn.Module, words: Any, hooks_of: Callable[[nn.Module], int], first_out: int
) -> None:
    taps = [FeatureTap(bert, ["attention.2", "hidden.1"]), FeatureTap(bert, ["attention.2", "scores.2"])]
    for tap in taps:
        tap.__enter__()
    bert(**words)
    one, two = taps[0].take(), taps[1].take()
    assert torch.equal(one["attention.2"], two["attention.2"])
    taps[first_out].__exit__(None, None, None)
    bert(**words)
    stays = taps[1 - first_out]
    assert torch.equal(stays.take()["attention.2"], one["attention.2"])
    stays.__exit__(None, None, None)
    assert hooks_of(bert) == 0


def test_two_models_of_one_config_do_not_touch_each_other(words: Any) -> None:
    config = tf.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    tapped, other = tf.BertModel(config).eval(), tf.BertModel(config).eval()
    assert tapped.config is other.config
    with FeatureTap(tapped, ["attention.1"]) as tap:
        assert config._attn_implementation == "sdpa"
        assert other.encoder.layer[0].attention.self.config is config
        tapped(**words)
        other(**words)
        expected = tap.take()["attention.1"]
    with FeatureTap(tapped, ["attention.1"]) as tap:
        tapped(**words)
        assert torch.equal(tap.take()["attention.1"], expected)


def test_a_module_that_did_not_run_is_named(words: Any) -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Chooses()
    with FeatureTap(model, ["used", "spare"]) as tap:
        model(torch.zeros(1, 2))
        with pytest.raises(AddressError, match="'spare' was not collected"):
            tap.take()


def test_its_repr_names_the_model_and_the_addresses(bert: nn.Module) -> None:
    tap = FeatureTap(bert, ["hidden.1", "logits"])
    what = "BertForSequenceClassification, ['hidden.1', 'logits']"
    assert repr(tap) == f"FeatureTap({what})"
    with tap:
        assert repr(tap) == f"FeatureTap({what}, entered)"
    tapped = TappedModel(bert, ["hidden.1", "logits"])
    assert repr(tapped) == f"TappedModel({what})"
    tapped.close()
    assert repr(tapped) == f"TappedModel({what}, closed)"


def test_entering_resolves_nothing_and_walks_nothing(bert: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    tap = FeatureTap(bert, MIXED)
    for name in ("probe", "layer"):
        monkeypatch.setattr(Resolver, name, lambda *_: pytest.fail("an address was resolved"))
    monkeypatch.setattr(nn.Module, "named_modules", lambda *_, **__: pytest.fail("the model was walked"))
    with tap:
        pass
