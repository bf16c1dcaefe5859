"""Small images in every form that they come in."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an encoded image of pixels (height, width, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def draw(count: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    """Return random pixels, (count, height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write train and validation splits of drawn images with three classes into `tmp_path/tiny`."""

    def write(train: int = 24, validation: int = 9, struct: bool = False, size: tuple[int, int] = (8, 8)) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        for seed, (split, count) in enumerate({"train": train, "validation": validation}.items()):
            encoded: list[Any] = [encode(pixels) for pixels in draw(count, size, seed)]
            cells = [{"bytes": cell, "path": None} for cell in encoded] if struct else encoded
            table = pa.table({"image": cells, "label": [row % 3 for row in range(count)]})
            parquet.write_table(table, folder / f"{split}.parquet")
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
