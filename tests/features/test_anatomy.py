"""What is known before anything runs: layers, and widths that are never wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import ModelInfo
from kd_lightning.features import FeatureTap, model_info

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def sizes(model: nn.Module, batch: Any, addresses: list[str]) -> dict[str, int]:
    """Return the size of the last axis of every feature that arrives, one by one."""
    found = {}
    for address in addresses:
        with torch.no_grad(), FeatureTap(model, [address]) as tap:
            model(**batch)
            try:
                found[address] = tap.take()[address].shape[-1]
            except AddressError:
                continue
    return found


def test_widths_of_layers_and_logits_are_known(family: Any) -> None:
    model, batch = family.build(), family.batch()
    info = model_info(model)
    kinds = ("query.1", "key.2", "value.2") if family.name not in ("deberta", "mpnet") else ()
    addresses = [address for address in ("logits", "last_hidden_state") if _has(info, address)]
    for stack in family.stacks:
        prefix = f"{stack}." if stack else ""
        addresses += [f"{prefix}hidden.{k}" for k in range(info.layers(stack) + 1)]
        addresses += [prefix + kind for kind in kinds]
        assert info.width(f"{prefix}attention.1") is None
    for address, size in sizes(model, batch, addresses).items():
        assert info.width(address) == size, address


def test_widths_of_modules_are_right_or_unknown(family: Any) -> None:
    model, batch = family.build(), family.batch()
    info = model_info(model)
    modules = {name: module for name, module in model.named_modules() if name}
    plain = [name for name, module in modules.items() if not isinstance(module, CONVOLUTIONS)]
    found = sizes(model, batch, [name + side for name in plain for side in ("", ":in")])
    widths = {address: info.width(address) for address in found}
    assert all(width in (None, found[address]) for address, width in widths.items())
    for name, module in modules.items():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and name in found:
            assert widths[name] is not None, name


@pytest.mark.parametrize(
    ("module", "takes", "gives"),
    [
        (nn.Linear(4, 3), 4, 3),
        (nn.LayerNorm(4), 4, 4),
        (nn.RMSNorm(4), 4, 4),
        (nn.BatchNorm1d(4), 4, 4),
        (nn.Embedding(9, 4), None, 4),
        (nn.GRU(4, 3), 4, 3),
        (nn.GRU(4, 3, bidirectional=True), 4, 6),
        (nn.LSTM(4, 3, bidirectional=True, proj_size=2), 4, 4),
        (nn.Conv1d(4, 3, 1), 4, 3),
        (nn.Conv2d(4, 3, 1), 4, 3),
        (nn.MultiheadAttention(4, 2), 4, 4),
        (nn.TransformerEncoderLayer(4, 2, 8), 4, 4),
        (nn.Sequential(nn.Dropout(), nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU()), 4, 2),
        (nn.ReLU(), None, None),
        (nn.ModuleList([nn.Linear(4, 3)]), None, None),
    ],
)
def test_widths_of_single_modules(module: nn.Module, takes: int | None, gives: int | None) -> None:
    info = model_info(nn.ModuleDict({"part": module}))
    assert (info.width("part:in"), info.width("part")) == (takes, gives)


def test_widths_of_a_plain_stack_come_from_its_layers() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)
    info = model_info(model)
    assert info.width("hidden.1") == info.width("layers.0") == info.width("layers.1:in") == 16
    assert info.width("query.1") == 8
    assert info.width("logits") is None


def test_logits_of_plain_models() -> None:
    assert model_info(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 7))).width("logits") == 7
    model = nn.Module()
    model.fc, model.features = nn.Linear(4, 5), nn.Linear(4, 4)
    assert model_info(model).width("logits") == 5
    model.head = nn.Linear(4, 6)  # which of the two gives the logits cannot be known
    assert model_info(model).width("logits") is None


def test_layers_of_different_widths_are_unknown() -> None:
    config = tf.SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
    info = model_info(tf.SwinModel(config))
    assert info.layers() == 2
    assert info.width("hidden.1") is None


def test_albert_counts_calls(families: dict[str, Any]) -> None:
    assert model_info(families["albert"].build()).layers() == 3
    assert model_info(families["albert_groups"].build()).layers() == 8


def test_an_unknown_stack_names_those_there_are(families: dict[str, Any]) -> None:
    with pytest.raises(AddressError, match="'encoder', 'decoder'"):
        model_info(families["bart"].build()).layers("encodr")
    with pytest.raises(AddressError, match="none"):
        model_info(nn.Linear(2, 2)).layers()


def test_describe_gives_an_anatomy(bert: nn.Module) -> None:
    assert isinstance(model_info(bert), ModelInfo)
    with pytest.raises(AddressError, match=r"hidden\.1"):
        model_info(bert).width("hiden.1")


def test_output_fields_are_those_the_model_declares(families: dict[str, Any]) -> None:
    model_info(families["bert_qa"].build()).check(["start_logits", "end_logits", "loss"])
    model_info(families["qwen2"].build()).check(["last_hidden_state"])
    model_info(families["clip"].build()).check(["logits_per_image", "text_embeds"])
    for name, field in (("bert_qa", "logits"), ("qwen2", "logits"), ("bert", "end_logits")):
        with pytest.raises(AddressError, match=f"'{field}'"):
            model_info(families[name].build()).check([field])
    model_info(families["bert"].build(), has_outputs=True).check(["end_logits"])


def _has(info: ModelInfo, address: str) -> bool:
    try:
        info.check([address])
    except AddressError:
        return False
    return True
