"""Encoded images → arrays of RGB pixels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kd_lightning.core.errors import DataError

Size: TypeAlias = tuple[int, int]
"""Height and width."""

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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
            if image.mode not in MODES:
                raise DataError(
                    f"{place} has pixels of Pillow's mode '{image.mode}', which cannot become eight bits of red, green "
                    "and blue without a choice of range: convert it first."
                )
            image = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{place} is no image that can be read ({_reason(error, 'unknown format')}).") from error
    except FileNotFoundError as error:
        raise DataError(f"{place} is missing.") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise DataError(f"{place} is truncated or damaged ({_reason(error, 'no reason given')}).") from error
    if size is not None and (larger := covering((image.height, image.width), size)) != (image.height, image.width):
        image = image.resize((larger[1], larger[0]), Image.Resampling.BILINEAR)  # with antialiasing
    return np.asarray(image)


def covering(shape: Size, size: Size) -> Size:
    """Return the height and width of an image that is scaled until it just covers a size.

    Example:
        >>> covering((100, 200), (32, 32)), covering((32, 32), (32, 32)), covering((10, 30), (20, 20))
        ((32, 64), (32, 32), (20, 60))

    """
    scale = max(size[0] / shape[0], size[1] / shape[1])
    return max(size[0], round(shape[0] * scale)), max(size[1], round(shape[1] * scale))


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
    raise DataError(f"{place} holds {type(value).__name__} where an image should be: bytes, or {{bytes, path}}.")


def _reason(error: BaseException, otherwise: str) -> str:
    lines = str(error).splitlines()
    return otherwise if not lines or "BytesIO" in lines[0] else lines[0].rstrip(".")
