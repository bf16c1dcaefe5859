"""Copies of tapped models: they carry no tap, and the original keeps its own."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, TappedModel

MIXED = ["hidden.1", "hidden.3", "attention.2", "scores.2", "bert.pooler:in", "logits"]


def deepcopied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIERS = pytest.mark.parametrize("copier", [deepcopied, pickled, saved])


@COPIERS
def test_a_copy_never_writes_into_the_originals_tap(bert: nn.Module, words: Any, copier: Any) -> None:
    with FeatureTap(bert, MIXED) as tap:
        twin = copier(bert)
        twin(**words)
        with pytest.raises(AddressError, match="no forward pass"):
            tap.take()
        expected = bert(**words).logits
        assert len(tap.take()) == len(MIXED)
    assert torch.equal(twin(**words).logits, expected)


@COPIERS
def test_a_copy_has_no_view_of_the_config(bert: nn.Module, copier: Any) -> None:
    with FeatureTap(bert, MIXED):
        twin = copier(bert)
    assert {type(m.config) for m in twin.modules() if hasattr(m, "config")} == {tf.BertConfig}
    assert twin.bert.encoder.layer[1].attention.self.config is twin.config


@COPIERS
def test_a_copy_can_be_tapped_itself(bert: nn.Module, words: Any, copier: Any) -> None:
    with FeatureTap(bert, MIXED) as tap:
        twin = copier(bert)
        bert(**words)
        expected = tap.take()
    with FeatureTap(twin, MIXED) as tap:
        twin(**words)
        features = tap.take()
    assert all(torch.equal(features[address], expected[address]) for address in MIXED)


@COPIERS
def test_a_copied_tapped_model_has_a_tap_of_its_own(bert: nn.Module, words: Any, copier: Any, hooks_of: Any) -> None:
    tapped = TappedModel(bert, MIXED)
    twin = copier(tapped)
    _, features = twin(**words)
    _, expected = tapped(**words)
    assert all(torch.equal(features[address], expected[address]) for address in MIXED)
    assert hooks_of(twin) == hooks_of(tapped)
    twin.close()
    assert hooks_of(twin) == 0
    assert hooks_of(copier(twin)) == 0
    tapped(**words)


def test_saving_a_tapped_model_leaves_no_trace(bert: nn.Module, words: Any, tmp_path: Path) -> None:
    before = dict(bert.state_dict())
    with FeatureTap(bert, MIXED):
        bert.save_pretrained(tmp_path)
        assert list(bert.state_dict()) == list(before)
    assert "kd" not in (tmp_path / "config.json").read_text()
    loaded = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**words).logits, bert(**words).logits)


def test_a_tapped_models_state_is_the_models(bert: nn.Module) -> None:
    tapped = TappedModel(bert, MIXED)
    assert list(tapped.state_dict()) == [f"model.{name}" for name in bert.state_dict()]


def test_calling_a_closed_tapped_model_raises_an_error(bert: nn.Module, words: Any, hooks_of: Any) -> None:
    tapped = TappedModel(bert, MIXED)
    tapped.close()
    tapped.close()
    assert hooks_of(bert) == 0
    with pytest.raises(AddressError, match="closed"):
        tapped(**words)
