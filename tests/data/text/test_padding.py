from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.padding import Padding


def examples(tokenizer, texts: list[str]) -> list[dict]:
    encoded = tokenizer(texts)
    return [
        {"input_ids": np.array(ids), "token_type_ids": np.array(kinds), "labels": i % 2, "sample_id": 10 + i}
        for i, (ids, kinds) in enumerate(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("pad", ["[PAD]", "[SEP]"])
def test_batches_equal_what_the_tokenizer_itself_would_pad(tokenizer, side, multiple, pad):
    tokenizer.padding_side, tokenizer.pad_token = side, pad
    texts = ["good film", "not a very bad film", "plot"]
    expected = tokenizer(texts, padding=True, pad_to_multiple_of=multiple, return_tensors="pt")
    batch = Padding.of(tokenizer, multiple)(examples(tokenizer, texts))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name]), name


def test_labels_and_sample_ids_are_int64_and_one_per_row(tokenizer):
    batch = Padding.of(tokenizer)(examples(tokenizer, ["good", "bad film"]))
    assert batch["labels"].tolist() == [0, 1]
    assert batch["sample_id"].tolist() == [10, 11]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_fields_the_rows_lack_are_not_invented():
    rows = [{"input_ids": np.array([5]), "labels": 0, "sample_id": 0}]
    assert set(Padding({"input_ids": 0, "token_type_ids": 0})(rows)) == {
        "input_ids",
        "attention_mask",
        "labels",
        "sample_id",
    }


def test_a_tokenizer_without_padding_token_is_an_error(tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(DataError, match=r"no padding token; set tokenizer\.pad_token"):
        Padding.of(tokenizer)


def test_settings_out_of_range_are_errors():
    with pytest.raises(DataError, match="side='top'"):
        Padding({"input_ids": 0}, side="top")
    with pytest.raises(DataError, match="pad_to_multiple_of"):
        Padding({"input_ids": 0}, multiple_of=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_of_tokens_are_padded_and_positions_move_with_their_tokens(tokenizer, side):
    tokenizer.padding_side = side
    ids = [np.array([2, 7, 3]), np.array([2, 7, 8, 9, 3])]
    rows = [
        {"input_ids": ids[0], "labels": np.array([-100, 4, -100]), "logits_mask": np.array([0, 1, 0])},
        {"input_ids": ids[1], "labels": np.array([-100, 4, 5, 6, -100]), "logits_mask": np.array([0, 1, 1, 1, 0])},
    ]
    for row, (start, end) in zip(rows, [(1, 2), (-100, -100)], strict=True):
        row |= {"start_positions": np.int64(start), "end_positions": np.int64(end)}
    batch = Padding.of(tokenizer, fields=("labels", "logits_mask"))(rows)
    empty = [0, 0] if side == "left" else []
    after = [] if side == "left" else [0, 0]
    assert batch["logits_mask"][0].tolist() == [*empty, 0, 1, 0, *after]
    assert batch["labels"][0][batch["logits_mask"][0] == 0].tolist() == [-100] * 4
    start, end = int(batch["start_positions"][0]), int(batch["end_positions"][0])
    assert batch["input_ids"][0, [start, end]].tolist() == ids[0][[1, 2]].tolist()
    assert (batch["start_positions"][1], batch["end_positions"][1]) == (-100, -100)
    rows[0] |= {"start_positions": np.int64(-100)}  # of the shorter row, too
    assert Padding.of(tokenizer, fields=("labels", "logits_mask"))(rows)["start_positions"].tolist() == [-100, -100]


def test_a_vector_of_labels_stays_one_of_the_row_however_many_there_are(tokenizer):
    rows = [{"input_ids": np.array([2, 3]), "labels": np.array([0.0, 1.0], np.float32)}] * 3
    batch = Padding.of(tokenizer, multiple_of=8)(rows)
    assert batch["labels"].shape == (3, 2)
    assert batch["labels"].dtype == torch.float32
