"""Encoded images → arrays of RGB pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from kd_lightning.core.errors import DataError

Size: TypeAlias = tuple[int, int]
"""Height and width."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an orientation of EXIF. `ImageOps.exif_transpose` writes all tags anew as well, and fails at bad ones."""

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes of eight bits a channel, which become RGB without losing more than transparency."""


def decode(content: bytes | str | Path, place: str, size: Size | None = None) -> np.ndarray:
    """Return an image as RGB pixels, (height, width, 3) uint8, turned as its EXIF orientation says.

    Args:
        content: an encoded image, or its file.
        place: where it is from, to begin an error message.
        size: scale it, both sides alike, until it just covers this height and width; None: leave it as large as it is.

    Raises:
        DataError: if it is missing, truncated or no image, or has other pixels than eight bits a channel.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (8, 4), color=7).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), "here").shape, decode(buffer.getvalue(), "here", size=(2, 2)).shape
        ((4, 8, 3), (2, 4, 3))

    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
        _check_mode(image, place)
        image.load()  # Pillow turns a TIFF by itself when it loads it, and takes the tag away
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        image = (image if turn is None else image.transpose(turn)).convert("RGB")
    except DataError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{place} is no image that can be read ({_reason(error, 'unknown format')}).") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{place} is no file.") from error
    except Exception as error:  # Pillow's readers raise errors of many kinds at damaged files
        raise DataError(f"{place} is truncated or damaged ({_reason(error, 'no reason given')}).") from error
    if size is not None and (larger := covering((image.height, image.width), size)) != (image.height, image.width):
        image = image.resize((larger[1], larger[0]), Image.Resampling.BILINEAR)  # with antialiasing
    return np.asarray(image)


def _check_mode(image: Image.Image, place: str) -> None:
    """Check that pixels have eight bits a channel; of colour images the mode does not tell, so the file is asked."""
    coded = [str(tile[3]) for tile in getattr(image, "tile", ())]
    deep = any(";16" in code and "BGR;16" not in code for code in coded)  # BGR;16 has 16 bits a pixel
    if deep or image.mode not in MODES:
        what = "more than eight bits a channel" if deep else f"Pillow's mode '{image.mode}'"
        raise DataError(
            f"{place} has {what}, which cannot become eight bits of red, green and blue without a choice of range: "
            "convert it first."
        )


def covering(shape: Size, size: Size) -> Size:
    """Return the height and width of an image that is scaled until it just covers a size.

    Example:
        >>> covering((100, 200), (32, 32)), covering((32, 32), (32, 32)), covering((10, 30), (20, 20))
        ((32, 64), (32, 32), (20, 60))

    """
    height, width = shape
    if size[0] * width >= size[1] * height:  # the long side is cut off as Transformers' image processors do
        return size[0], max(size[1], int(size[0] * width / height))
    return max(size[0], int(size[1] * height / width)), size[1]


def encoded(value: Any, place: str) -> bytes | str:
    """Return the bytes, or else the file, that a cell of a table has for an image.

    Args:
        value: bytes, or `{"bytes": …, "path": …}` as the `datasets` library has it, one of them None; or a path.
        place: where it is from, to begin an error message.

    Raises:
        DataError: if it is none of these.

    Example:
        >>> encoded({"bytes": None, "path": "a.png"}, "here"), encoded(b"...", "here")
        ('a.png', b'...')

    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | str) and value:
        return value
    held = "nothing" if value is None or value in (b"", "") else type(value).__name__
    raise DataError(f"{place} holds {held} where an image should be: bytes, or {{bytes, path}}.")


def names_files(column: Any) -> bool:
    """Return whether a `pyarrow` column has paths of image files, and not all of their bytes.

    Example:
        >>> import pyarrow as pa
        >>> names_files(pa.chunked_array([[b"...", b"..."]])), names_files(pa.chunked_array([["a.png"]]))
        (False, True)

    """
    import pyarrow

    if pyarrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = column.combine_chunks().field("bytes")
    return bool(column.null_count) or not (
        pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)
    )


def content_of(value: Any, place: str, folder: Path) -> bytes:
    """Return the bytes of an image in a cell of a table.

    Args:
        value: as `encoded` takes it.
        place: where it is from, to begin an error message.
        folder: what relative paths are below.

    Raises:
        DataError: if it is no image, or its file cannot be read.

    """
    found = encoded(value, place)
    if isinstance(found, bytes):
        return found
    try:
        return (folder / found).read_bytes()
    except OSError as error:
        raise DataError(f"{place}: the file {folder / found} cannot be read ({error.strerror}).") from error


def _reason(error: BaseException, otherwise: str) -> str:
    lines = str(error).splitlines()
    return otherwise if not lines or "BytesIO" in lines[0] else lines[0].rstrip(".")
