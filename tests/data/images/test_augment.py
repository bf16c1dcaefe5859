"""Augmentations on batches give what a loop over images gives."""

from __future__ import annotations

import numpy as np
import pytest

from kd_lightning.core.errors import DataError
from kd_lightning.data import CutMix, Flip, Mixup, RandomCrop
from kd_lightning.data.images.augment import as_list

from .conftest import draw


@pytest.mark.parametrize(("mode", "numpys"), [("zeros", "constant"), ("reflect", "reflect")])
def test_a_crop_is_a_window_of_the_padded_image(mode: str, numpys: str) -> None:
    images, augmentation, random = draw(20, (6, 9)), RandomCrop(4, mode), np.random.default_rng(0)
    drawn = [augmentation.draw(random) for _ in images]
    for image, (top, left), crop in zip(images, drawn, augmentation.apply(images, drawn), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode=numpys)
        assert np.array_equal(crop, padded[top : top + 6, left : left + 9])
    assert {value for pair in drawn for value in pair} == set(range(9))


def test_flipping_mirrors_those_that_were_drawn() -> None:
    images, random = draw(8), np.random.default_rng(0)
    drawn = [Flip().draw(random) for _ in images]
    assert len(set(drawn)) == 2
    for image, flipped, result in zip(images, drawn, Flip().apply(images, drawn), strict=True):
        assert np.array_equal(result, image[:, ::-1] if flipped else image)


def test_mixup_is_a_weighted_mean() -> None:
    images, partners = draw(5), draw(5, seed=1)
    drawn = [Mixup(0.4).draw(np.random.default_rng(row)) for row in range(5)]
    mixed, share = Mixup(0.4).apply(images, partners, drawn)
    for row, (own,) in enumerate(drawn):
        assert np.allclose(mixed[row], own * images[row].astype(float) + (1 - own) * partners[row], atol=1e-3)
        assert share[row] == pytest.approx(own)


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    images, partners = np.zeros((40, 12, 10, 3), np.uint8), np.full((40, 12, 10, 3), 255, np.uint8)
    drawn = [CutMix().draw(np.random.default_rng(row)) for row in range(40)]
    mixed, share = CutMix().apply(images, partners, drawn)
    for row in range(40):
        pasted = mixed[row, :, :, 0] == 255
        assert share[row] == pytest.approx(1 - pasted.mean())
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, np.outer(rows, columns))
    assert share.min() < 0.4
    assert share.max() > 0.8


@pytest.mark.parametrize(("make", "says"), [
    (lambda: RandomCrop(0), "at least 1; got 0"),
    (lambda: RandomCrop(2, "zero"), "Closest: zeros"),
    (lambda: Flip(2.0), "is a probability"),
    (lambda: Mixup(0.0), "above 0; got 0.0"),
    (lambda: as_list([Mixup()]), "such as kd.data.Flip"),
])  # fmt: skip
def test_wrong_settings_are_named(make: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_colours_are_changed_row_by_row() -> None:
    pytest.importorskip("kornia", reason="changes of colours need the extra `images`")
    from kd_lightning.data import ColourJitter, RandAugment

    images = draw(6, (8, 8))
    for augmentation in (ColourJitter(), RandAugment(2, 20)):
        drawn = [augmentation.draw(np.random.default_rng(row)) for row in range(6)]
        together = augmentation.apply(images, drawn)
        assert together.shape == images.shape
        assert together.dtype == np.uint8
        assert not np.array_equal(together, images)
        for row in range(6):
            alone = augmentation.apply(images[row : row + 1], drawn[row : row + 1])
            assert np.abs(alone[0].astype(int) - together[row]).max() <= 1


def test_colour_factors_of_one_change_nothing() -> None:
    pytest.importorskip("kornia", reason="changes of colours need the extra `images`")
    from kd_lightning.data import ColourJitter

    images = draw(3)
    assert np.abs(ColourJitter().apply(images, [(1.0, 1.0, 1.0, 0.0)] * 3).astype(int) - images).max() <= 1
    dark = ColourJitter().apply(images, [(0.5, 1.0, 1.0, 0.0)] * 3)
    assert np.abs(dark.astype(int) - images / 2).max() <= 1
