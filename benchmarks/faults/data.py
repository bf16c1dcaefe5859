"""Made-up rows of every kind of task, small enough that a whole run takes seconds."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

WORDS = ["the", "a", "film", "plot", "actor", "scene", "was", "is", "very", "not", "slow", "bright", "dull", "of"]
SPLITS = {"train": 96, "validation": 24}


def write_all(folder: Path) -> None:
    """Write texts, tags, questions and images below a folder."""
    for split, rows in SPLITS.items():
        draw = random.Random(split)
        _write(folder / "films" / f"{split}.parquet", texts(draw, rows))
        _write(folder / "people" / f"{split}.parquet", tagged(draw, rows))
        _write(folder / "gold" / f"{split}.parquet", questions(draw, rows))
        _write(folder / "noise" / f"{split}.parquet", images(draw, rows))


def texts(draw: random.Random, rows: int) -> dict[str, list[Any]]:
    """Return short texts of label 1 where `good` is among the words."""
    sentences = [" ".join([*draw.choices(WORDS, k=draw.randint(2, 8)), ["bad", "good"][i % 2]]) for i in range(rows)]
    return {"sentence": sentences, "label": [i % 2 for i in range(rows)]}


def tagged(draw: random.Random, rows: int) -> dict[str, list[Any]]:
    """Return words, with a tag for `Ada` and `Oslo`."""
    tags = {"Ada": "B-PER", "Oslo": "B-LOC"}
    tokens = [[draw.choice([*WORDS, *tags, *tags]) for _ in range(draw.randint(3, 8))] for _ in range(rows)]
    return {"tokens": tokens, "ner_tags": [[tags.get(word, "O") for word in words] for words in tokens]}


def questions(draw: random.Random, rows: int) -> dict[str, list[Any]]:
    """Return texts with an answer that is `gold coin`."""
    before, after = ([" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(rows)] for _ in range(2))
    return {
        "id": [str(row) for row in range(rows)],
        "context": [f"{one} gold coin {other}" for one, other in zip(before, after, strict=True)],
        "question": ["where is it"] * rows,
        "answers": [{"text": ["gold coin"], "answer_start": [len(one) + 1]} for one in before],
    }


def images(draw: random.Random, rows: int) -> dict[str, list[Any]]:
    """Return images of noise, those of label 1 with a bright bar."""
    return {"image": [_image(draw, row % 2) for row in range(rows)], "label": [row % 2 for row in range(rows)]}


def _image(draw: random.Random, label: int) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 120, (12, 12, 3), dtype=np.uint8)
    pixels[3:5] += np.uint8(120 * label)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write(file: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file)
