from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.columns import spans_of
from kd_lightning.teachers.cache.rows import TOLERANCE, RowFingerprints, fingerprint_rows, rows_of

from ...toys import words


def prints(batch: Any) -> RowFingerprints:
    rows = rows_of(batch)
    return fingerprint_rows(rows, spans_of(rows.mask, len(rows.ids)))


def numbered(**fields: Any) -> dict[str, Any]:
    return {**fields, "sample_id": torch.arange(len(next(iter(fields.values()))))}


def text(**more: Any) -> dict[str, Any]:
    return numbered(**words(), **more)


def test_padding_and_its_side_do_not_count():
    ids = torch.tensor([[5, 6, 7, 9, 9], [8, 4, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    plain = prints(numbered(input_ids=ids, attention_mask=mask))
    left = numbered(
        input_ids=torch.tensor([[0, 5, 6, 7], [0, 0, 8, 4]]), attention_mask=torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
    )
    short = numbered(input_ids=ids[:, :3], attention_mask=mask[:, :3].bool())
    for other in (left, short):
        assert not plain.differ(prints(other)).any()


def changes() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    base = text(token_type_ids=torch.zeros(4, 6).long(), position_ids=torch.arange(6).expand(4, 6))
    moved, swapped, hole = base["input_ids"].clone(), base["input_ids"].clone(), base["attention_mask"].clone()
    moved[2, 0] += 1
    swapped[2, [0, 1]] = base["input_ids"][2, [1, 0]]
    hole[2, 3] = 0
    types, places = base["token_type_ids"].clone(), base["position_ids"].clone()
    types[2, 4], places[2, 5] = 1, 9
    vectors = {"inputs_embeds": torch.rand(4, 6, 40), "attention_mask": base["attention_mask"]}
    other = vectors["inputs_embeds"].clone()
    other[2] = other[2].flip(0)
    bias = torch.zeros(4, 6, 6)
    biased = bias.clone()
    biased[2, 0, 1] = torch.finfo(torch.float32).min
    return {
        "a token": (base, base | {"input_ids": moved}),
        "order": (base, base | {"input_ids": swapped}),
        "a hole": (base, base | {"attention_mask": hole}),
        "types": (base, base | {"token_type_ids": types}),
        "positions": (base, base | {"position_ids": places}),
        "vectors": (numbered(**vectors), numbered(**vectors | {"inputs_embeds": other})),
        "bias": (text(bias=bias), text(bias=biased)),
        "decoder": (text(decoder_input_ids=base["input_ids"]), text(decoder_input_ids=moved)),
        "in a list": (text(views=[bias, base["input_ids"]]), text(views=[bias, moved])),
        "nested": (text(more={"a": base["input_ids"]}), text(more={"a": moved})),
    }


@pytest.mark.parametrize("what", list(changes()))
def test_inputs_of_the_teacher_count(what):
    one, other = changes()[what]
    assert prints(one).differ(prints(other)).tolist() == [False, False, True, False]


def test_a_mask_of_ones_is_no_mask_in_whatever_type():
    ids = words()["input_ids"]
    plain = prints(numbered(input_ids=ids))
    for dtype in (torch.long, torch.bool, torch.float32):
        assert not plain.differ(prints(numbered(input_ids=ids, attention_mask=torch.ones(4, 6).to(dtype)))).any()


def test_positions_of_all_rows_at_once_count_too():
    one, other = text(position_ids=torch.arange(6)[None]), text(position_ids=1 + torch.arange(6)[None])
    assert prints(one).differ(prints(other)).all()
    assert not prints(one).differ(prints(text(position_ids=torch.arange(6).expand(4, 6)))).any()


def test_fields_that_are_no_input_do_not_count():
    one, other = (
        text(),
        text(task="a", word_ids=torch.arange(4), teacher_cache={"logits": torch.rand(4)}),
    )
    assert not prints(one).differ(prints(other | {"labels": torch.tensor([9, 9, 9, 9])})).any()


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).cumsum(-1) / 30


ALTERED = {
    "flip": lambda x: x.flip(-1),
    "crop": lambda x: x.roll(2, -2),
    "noise": lambda x: x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
    "brighter": lambda x: x * 1.2,
    "lighter": lambda x: x + 0.2,
    "black": torch.zeros_like,
    "not a number": lambda x: x * float("nan"),
}


@pytest.mark.parametrize("how", list(ALTERED))
def test_augmented_images_are_detected(how):
    one, other = prints(numbered(x=image())), prints(numbered(x=ALTERED[how](image())))
    assert one.differ(other).all()


def test_other_images_are_detected_however_small():
    generator = torch.Generator().manual_seed(0)
    many = [prints(numbered(x=torch.randn(2000, 3, 16, 16, generator=generator))) for _ in range(2)]
    assert many[0].differ(many[1]).mean() > 0.998
    one, two = (prints(numbered(x=value)) for value in (torch.full((4, 1), 2.0), torch.full((4, 1), 3.0)))
    assert one.differ(two).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(200, 3, 32, 32), (200, 4), (200, 1)])
def test_rounding_is_no_change(dtype, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    one, other = prints(numbered(x=values)), prints(numbered(x=values.to(dtype)))
    assert not one.differ(other).any()
    assert np.abs(one.sketches - other.sketches).max() < TOLERANCE / 2


def test_what_is_not_finite_is_equal_to_itself():
    values = torch.randn(4, 5)
    values[:, 2], values[:, 3] = float("-inf"), torch.finfo(torch.float32).min
    values[:, 4] = float("nan")
    same = prints(numbered(x=values)).differ(prints(numbered(x=values.bfloat16())))
    assert not same.any()


def test_bytes_are_compared_exactly():
    values = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)
    other = values.clone()
    other[1, 0, 0, 0] += 1
    assert prints(numbered(x=values)).differ(prints(numbered(x=other))).tolist() == [False, True, False, False]


def test_a_batch_without_an_integer_per_row_raises_an_error():
    with pytest.raises(CacheError, match="no 'sample_id'"):
        rows_of(words())
    with pytest.raises(CacheError, match="no 'sample_id'"):
        rows_of(words() | {"sample_id": torch.rand(4)})
    with pytest.raises(CacheError, match="5 sample ids and 4 rows"):
        rows_of(words() | {"sample_id": torch.arange(5)})
