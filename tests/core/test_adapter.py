from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import nn

from kd_lightning.core.adapter import Adapter, ArgumentRule
from kd_lightning.core.errors import DataError

from ..toys import bert, words


class Named(nn.Module):
    def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> None: ...


class Open(nn.Module):
    def forward(self, input_ids: Any, **kwargs: Any) -> None: ...


class Anything(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> None: ...


class Holder(nn.Module):
    """Its only child is called `module`, as in a data-parallel wrapper, but it has a signature of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)

    def forward(self, tokens: Any) -> None: ...


def names(model: nn.Module, batch: Any, with_labels: bool = False) -> set[str]:
    args, kwargs = ArgumentRule(model, with_labels=with_labels)(batch)
    assert args == ()
    return set(kwargs)


BATCH = {"input_ids": 1, "attention_mask": 2, "labels": 3, "sample_id": 4, "token_type_ids": 5}


def test_fields_are_passed_by_the_names_of_forwards_arguments():
    assert names(Named(), BATCH) == {"input_ids", "attention_mask"}


def test_labels_are_passed_only_for_the_models_own_loss():
    assert names(Named(), BATCH, with_labels=True) == {"input_ids", "attention_mask", "labels"}


def test_a_forward_with_open_keywords_gets_all_fields_but_labels():
    assert names(Anything(), BATCH) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_forward_with_named_and_open_keywords_gets_the_mask():
    assert names(Open(), BATCH) == {"input_ids", "attention_mask", "token_type_ids"}


def test_transformers_models_get_only_named_arguments():
    assert names(bert(), BATCH | {"idx": 6}) == {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_wrappers_are_looked_through(wrap):
    assert names(wrap(Named()), BATCH) == {"input_ids", "attention_mask"}


def test_a_child_called_module_does_not_make_a_wrapper():
    assert names(Holder(), {"tokens": 1, "input": 2}) == {"tokens"}


def test_mappings_of_other_classes_are_mappings():
    assert names(Named(), UserDict(BATCH)) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("batch", [(1, 2), [1, 2], (1,)])
def test_of_a_pair_the_model_gets_the_first(batch):
    assert ArgumentRule(nn.Linear(2, 2))(batch) == ((1,), {})


def test_anything_else_is_the_one_argument():
    x = torch.zeros(2)
    assert ArgumentRule(nn.Linear(2, 2))(x)[0][0] is x


def test_no_fitting_field_raises_and_names_fields_and_arguments():
    with pytest.raises(DataError, match=r"image, labels.*attention_mask, input_ids.*Adapter\(inputs"):
        ArgumentRule(Named())({"image": 1, "labels": 2})


@pytest.mark.parametrize(
    ("made", "called"),
    [({"a": 1}, ((), {"a": 1})), ((1, 2), ((1, 2), {})), (5, ((5,), {})), ([1, 2], (([1, 2],), {}))],
    ids=str,
)
def test_an_adapters_inputs_become_arguments(made, called):
    assert ArgumentRule(Named(), Adapter(inputs=lambda batch: made))(BATCH) == called


def test_an_adapter_without_inputs_keeps_the_default_arguments():
    assert ArgumentRule(Named(), Adapter(outputs=dict))(words())[1].keys() == {"input_ids", "attention_mask"}


def test_of_a_mapping_and_labels_the_fields_are_passed_by_name():
    fields = {key: value for key, value in words().items() if key != "labels"}
    assert ArgumentRule(Named())((fields, words()["labels"]))[1].keys() == {"input_ids", "attention_mask"}


def test_a_missing_required_argument_raises():
    class Pair(nn.Module):
        def forward(self, left, right, *, scale=1.0):
            return left * right * scale

    rule = ArgumentRule(Pair())
    assert rule({"left": 1, "right": 2}) == ((), {"left": 1, "right": 2})
    with pytest.raises(DataError, match=r"Pair.forward also requires right, .*Adapter\(inputs=…\)"):
        rule((1, 2))
    with pytest.raises(DataError, match=r"also requires left"):
        rule({"right": 2, "labels": 3})


def test_images_are_the_one_argument_of_a_network_that_calls_it_otherwise() -> None:
    class Network(nn.Module):
        def forward(self, x: Any, training: bool = False) -> None: ...

    batch = {"pixel_values": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2), "sample_id": torch.zeros(2)}
    (given,), named = ArgumentRule(Network())(batch)
    assert given is batch["pixel_values"]
    assert named == {}
    assert names(type("Own", (nn.Module,), {"forward": lambda self, pixel_values: None})(), batch) == {"pixel_values"}
