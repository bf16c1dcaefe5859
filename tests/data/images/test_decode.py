"""Decoding: pixels of every mode, orientation, sizes, and files that are no images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_lightning.core.errors import DataError
from kd_lightning.data.images.decode import decode

from .conftest import draw, encode


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pixels_are_those_that_were_encoded(tmp_path: Path) -> None:
    (pixels,) = draw(1)
    assert np.array_equal(decode(encode(pixels), "here"), pixels)
    (tmp_path / "a.png").write_bytes(encode(pixels))
    assert np.array_equal(decode(str(tmp_path / "a.png"), "here"), pixels)


@pytest.mark.parametrize(("mode", "value", "expected"), [
    ("L", 7, [7, 7, 7]),
    ("1", 1, [255, 255, 255]),
    ("LA", (7, 255), [7, 7, 7]),
    ("RGBA", (1, 2, 3, 255), [1, 2, 3]),
])  # fmt: skip
def test_eight_bit_modes_become_rgb(mode: str, value: object, expected: list[int]) -> None:
    assert decode(saved(Image.new(mode, (2, 2), value)), "here")[0, 0].tolist() == expected


def test_palettes_and_four_inks_become_rgb() -> None:
    palette = Image.new("RGB", (2, 2), (250, 10, 20)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(saved(palette), "here")[0, 0].tolist() == [250, 10, 20]
    inks = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert decode(saved(inks, "JPEG"), "here").max() < 10


def test_orientation_of_cameras_is_applied() -> None:
    pixels = draw(1, (2, 3))[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    turned = decode(saved(Image.fromarray(pixels), "PNG", exif=exif), "here")
    assert np.array_equal(turned, np.rot90(pixels, k=-1))


def test_an_image_is_scaled_until_it_covers_the_size() -> None:
    assert decode(encode(draw(1, (10, 30))[0]), "here", size=(5, 5)).shape == (5, 15, 3)
    grey = np.full((9, 9, 3), 77, np.uint8)
    assert (decode(encode(grey), "here", size=(4, 6)) == 77).all()


@pytest.mark.parametrize(("content", "says"), [
    (encode(draw(1, (64, 64))[0])[:-2000], "place is truncated or damaged"),
    (encode(draw(1, (64, 64))[0], "JPEG")[:900], "place is truncated or damaged"),
    (b"no image at all", "place is no image that can be read"),
    (b"", "place is no image that can be read"),
    (saved(Image.new("I;16", (2, 2))), "mode 'I;16'"),
    ("/nowhere/a.png", "place is missing"),
])  # fmt: skip
def test_what_is_no_image_is_named(content: bytes | str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(content, "place")
