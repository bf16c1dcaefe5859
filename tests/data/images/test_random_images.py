"""Images drawn at random, of every mode, size and damage: Pillow's own pixels, or one error that names the file."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pyarrow import parquet

from kd_lightning.core.errors import DataError
from kd_lightning.data import ImageClassification
from kd_lightning.data.images.decode import decode
from kd_lightning.data.readers import class_files

drawn = settings(
    phases=[Phase.generate],
    derandomize=True,
    deadline=None,
    max_examples=30,
    database=None,
    suppress_health_check=list(HealthCheck),
)

EIGHT_BITS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P", "RGB"],
    "TIFF": ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"],
    "BMP": ["1", "L", "P", "RGB"],
    "WEBP": ["RGB", "RGBA"],
}
DEEP = {"PNG": ["I;16"], "TIFF": ["I;16", "I", "F"]}
SHAPES = st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 5), (16, 16), (3000, 1), (1, 3000)])


def image_of(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Return an image of random pixels in a mode, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(pixels[..., 0].astype(kind) * 257)
    return Image.fromarray(pixels, "RGBA" if mode == "RGBA" else "CMYK" if mode == "CMYK" else "RGBX").convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


@st.composite
def files(draw: st.DrawFn, deep: bool = False) -> bytes:
    """Draw an encoded image, of which some have an orientation, and some several frames."""
    modes = DEEP if deep else EIGHT_BITS
    kind = draw(st.sampled_from(sorted(modes)))
    mode, size, seed = draw(st.sampled_from(modes[kind])), draw(SHAPES), draw(st.integers(0, 99))
    options: dict[str, Any] = {}
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and draw(st.booleans()):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = draw(st.integers(0, 9))
    if kind in ("GIF", "WEBP") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [image_of(mode, size, seed + 1)]}
    return saved(image_of(mode, size, seed), kind, **options)


def by_pillow(content: bytes) -> np.ndarray:
    """Return the pixels that Pillow itself gives."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def pixels_or_refusal(content: bytes) -> np.ndarray | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags
        try:
            return decode(content, "here.png")
        except DataError as error:
            return str(error)


@drawn
@given(content=files())
def test_eight_bits_a_channel_are_what_pillow_makes_of_them(content: bytes) -> None:
    assert np.array_equal(decode(content, "here"), by_pillow(content))


@drawn
@given(content=files(deep=True))
def test_more_bits_are_refused(content: bytes) -> None:
    said = pixels_or_refusal(content)
    assert isinstance(said, str)
    assert said.startswith("here.png has ")


@drawn
@given(content=files(), places=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=9),
       cut=st.one_of(st.none(), st.integers(0, 3000)))  # fmt: skip
def test_damage_is_pixels_or_one_error(content: bytes, places: list[tuple[int, int]], cut: int | None) -> None:
    broken = bytearray(content[:cut])
    for place, value in places if broken else ():
        broken[place % min(len(broken), 400)] = value
    found = pixels_or_refusal(bytes(broken))
    if isinstance(found, str):
        assert found.startswith("here.png ")
        assert "\n" not in found
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3


# -- through the data module ----------------------------------------------------------------------------------------

NAMES = ["a.png", "b c.PNG", "é.jpg", "😀.jpeg", ".hidden.png", "#1%20.png", "x" * 200 + ".png"]
CELLS = {
    "good": saved(Image.new("RGB", (4, 4), (9, 8, 7)), "PNG"),
    "large": saved(Image.new("RGB", (9, 3)), "PNG"),
    "text": b"no image",
    "empty": b"",
    "cut": saved(image_of("RGB", (16, 16), 0), "JPEG")[:200],
    "deep": saved(image_of("I;16", (4, 4), 0), "PNG"),
}


def outcome(data: ImageClassification) -> str:
    """Set data up and return the error that it is refused with, else nothing."""
    try:
        data.setup()
    except DataError as error:
        return str(error)
    return ""


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@drawn
@given(
    placed=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(NAMES), st.sampled_from([*["good"] * 8, *CELLS])),
                    max_size=8, unique_by=lambda one: one[:2]),
    size=st.sampled_from([None, 4]),
    linked=st.booleans(),
)  # fmt: skip
def test_folders_of_images_are_read_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, placed: list[tuple[str, str, str]], size: int | None, linked: bool
) -> None:
    folder = emptied(tmp_path_factory.getbasetemp() / "photos")
    for label, name, kind in placed:
        (file := folder / "train" / label / name).parent.mkdir(parents=True, exist_ok=True)
        real = folder / f"elsewhere-{label}{NAMES.index(name)}" if linked else file
        real.write_bytes(CELLS[kind])
        if linked:
            os.symlink(real, file)
    kinds = {kind for _, _, kind in placed}
    try:
        data = ImageClassification("p", path=folder, size=size, holdout=0.4, cache_dir=folder / "cache", batch_size=2)
        said = outcome(data)
    except DataError as error:
        said = str(error)
    if said:
        assert str(folder) in said or said.startswith("The splits' images have different sizes")
        good = kinds <= {"good"} | ({"large"} if size else set())
        assert not good or len({label for label, _, _ in placed}) < 2 or "too few different" in said
        return
    order = class_files(folder / "train")
    assert len(order) == len(placed) == sum(data.sizes.values())
    assert all(int(y) in (0, 1) for batch in data.val_dataloader() for y in batch["labels"])


@drawn
@given(
    cells=st.lists(st.sampled_from([*["good"] * 9, *CELLS, None]), min_size=0, max_size=5),
    struct=st.booleans(),
    labels=st.lists(st.sampled_from([0, 1, None, -1, "x"]), min_size=5, max_size=5),
)
def test_images_in_parquet_are_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str | None], struct: bool, labels: list[Any]
) -> None:
    folder = emptied(tmp_path_factory.getbasetemp() / "table")
    images = [None if cell is None else CELLS[cell] for cell in cells]
    column = pa.array([{"bytes": one, "path": None} for one in images] if struct else images,
                      pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary())  # fmt: skip
    own = labels[: len(cells)]
    own = [label if len({type(one) for one in own} - {type(None)}) < 2 else str(label) for label in own]
    for split in ("train", "validation"):
        parquet.write_table(pa.table({"image": column, "label": pa.array(own)}), folder / f"{split}.parquet")
    data = ImageClassification("table", path=folder, size=4, cache_dir=folder / "cache", batch_size=2)
    said = outcome(data)
    clean = set(cells) <= {"good", "large"} and not {None, -1} & set(own) and len(set(own)) > 1
    if clean:
        assert not said
        (*_, batch) = data.val_dataloader()
        assert sum(data.sizes.values()) == 2 * len(cells)
        assert batch["pixel_values"].shape[1:] == (3, 4, 4)
    else:
        assert said.startswith(f"{folder}/train.parquet")
