from __future__ import annotations

import pytest
import torch
from transformers import BatchEncoding

from kd_lightning.core.batch import batch_size, field, is_batch_field, required_field, sub_batch, token_mask
from kd_lightning.core.errors import AddressError

X, Y, M = torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.ones(3, 4)
IMAGES = [torch.zeros(3, 8, 6), torch.zeros(3, 5, 8)]


@pytest.mark.parametrize(
    "name", ["label", "labels", "start_positions", "end_positions", "sample_id", "next_sentence_label", "mc_labels"]
)
def test_labels_positions_and_ids_are_batch_fields(name):
    assert is_batch_field(name)


@pytest.mark.parametrize("name", ["logits", "loss", "hidden.1", "position_ids", "input_ids", "head.labels", "labels.0"])
def test_inputs_and_outputs_of_models_are_not_batch_fields(name):
    assert not is_batch_field(name)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ({"x": X, "labels": Y}, Y),
        (BatchEncoding({"x": X, "labels": Y}), Y),
        ((X, Y), Y),
        ([X, Y], Y),
        ({"student": {"x": X, "labels": Y}, "teacher": {"x": M}}, Y),
        ({"student": (X, Y), "teacher": M}, Y),
        ({"student": X, "teacher": M, "labels": Y}, Y),
        ({"student": {"labels": M}, "teacher": {}, "labels": Y}, Y),
        ({"student": X, "teacher": M}, None),
        (({"x": X, "attention_mask": M}, Y), Y),
        ((X, M, Y), None),
        ((X,), None),
        (X, None),
        ({"x": X}, None),
    ],
)
def test_labels_are_found_in_every_form_of_batch(batch, labels):
    assert field(batch, "labels") is labels


def test_each_model_gets_its_sub_batch():
    both = {"student": X, "teacher": M, "labels": Y}
    assert (sub_batch(both, "student"), sub_batch(both, "teacher")) == (both["student"], both["teacher"])
    for batch in ((X, Y), {"x": X}, {"student": X}):
        assert sub_batch(batch, "student") is batch
        assert sub_batch(batch, "teacher") is batch


def test_only_a_token_mask_is_a_token_mask():
    assert token_mask({"attention_mask": M}) is M
    assert token_mask({"attention_mask": torch.ones(3, 1, 4, 4)}) is None
    assert token_mask({"pixel_mask": M}) is None
    assert token_mask((X, Y)) is None
    assert token_mask({"student": {"attention_mask": M}, "teacher": {"attention_mask": X}}) is M


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ((X, Y), 3),
        ({"name": "a", "x": X}, 3),
        ({"student": {"x": X}}, 3),
        (torch.tensor(1.0), 1),
        ({"n": 5}, 1),
        ([[X]], 3),
        ({"pixel_values": IMAGES, "labels": torch.tensor([0, 1])}, 2),
        ({"pixel_values": IMAGES, "labels": [{"boxes": X}, {"boxes": Y}]}, 2),
        ({"student": {"pixel_values": IMAGES}, "teacher": {"pixel_values": IMAGES}}, 2),
        ((IMAGES, [{"boxes": X}, {"boxes": M}]), 2),
        ([[X, M], torch.zeros(5)], 5),
    ],
)
def test_rows_are_those_of_the_first_tensor(batch, rows):
    assert batch_size(batch) == rows


def test_a_missing_field_raises_and_names_the_batchs_fields():
    with pytest.raises(AddressError, match=r"no field 'lables'.*Closest: labels"):
        required_field({"labels": Y}, "lables")
    with pytest.raises(AddressError, match=r"no field 'start_positions'.*pair \(x, labels\)"):
        required_field((X, Y), "start_positions")


def test_a_pair_of_a_mapping_and_labels_has_a_mask():
    assert token_mask(({"input_ids": X, "attention_mask": M}, Y)) is M
    assert token_mask((X, Y)) is None


def test_a_field_of_more_than_a_pair_raises():
    with pytest.raises(AddressError, match=r"no field 'labels'.*Collate batches into mappings"):
        required_field((X, M, Y), "labels")
