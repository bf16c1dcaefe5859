"""Decoding: pixels of every mode, orientation, sizes, and files that are no images."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

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


def deep_colours() -> bytes:
    """Return a PNG of one pixel with sixteen bits of red, green and blue."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, pixel = (
        struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0),
        zlib.compress(b"\0" + struct.pack(">HHH", *[4095] * 3)),
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("content", "says"), [
    (encode(draw(1, (64, 64))[0])[:-2000], "place is truncated or damaged"),
    (encode(draw(1, (64, 64))[0], "JPEG")[:900], "place is truncated or damaged"),
    (b"no image at all", "place is no image that can be read"),
    (b"", "place is no image that can be read"),
    (saved(Image.new("I;16", (2, 2))), "place has more than eight bits a channel"),
    (deep_colours(), "place has more than eight bits a channel"),
    (saved(Image.new("F", (2, 2)), "TIFF"), "Pillow's mode 'F'"),
    ("/nowhere/a.png", "place is no file"),
    ("/", "place is no file"),
], ids=range(9))  # fmt: skip
def test_what_is_no_image_is_named(content: bytes | str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(content, "place")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_does(orientation: int) -> None:
    (pixels,) = draw(1, (4, 6))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pixels), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(decode(content, "here"), np.asarray(expected))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of such tags
def test_tags_that_cannot_be_written_again_do_no_harm() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "camera", 72.0
    content = saved(Image.fromarray(draw(1, (24, 16))[0]), "JPEG", exif=exif)
    start, bad = content.index(b"Exif") + 6, 0
    for at, value in itertools.product(range(start, start + len(exif.tobytes()) - 6), range(13)):
        broken = bytearray(content)
        broken[at] = value
        try:
            ImageOps.exif_transpose(Image.open(io.BytesIO(broken)))
        except (struct.error, TypeError):
            bad += 1
            assert decode(bytes(broken), "here").shape in ((24, 16, 3), (16, 24, 3))
        except (OSError, SyntaxError, ValueError):
            pass
    assert bad > 0


def test_sixteen_bits_a_pixel_are_not_sixteen_a_channel() -> None:
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    file = b"BM" + struct.pack("<IHHI", 14 + len(header) + 4, 0, 0, 14 + len(header)) + header
    assert decode(file + struct.pack("<HH", 0xF800, 0x001F), "here").tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_whatever_a_reader_raises_is_an_error_that_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, mode: str) -> None:
        raise RuntimeError("a decoder's own error")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DataError, match=r"^here is truncated or damaged \(a decoder's own error\)\.$"):
        decode(encode(draw(1)[0]), "here")
