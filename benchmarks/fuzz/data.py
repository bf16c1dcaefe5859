"""Small data sets for every data module of the configurations, made from the columns that a configuration names."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

ROWS = {"train": 24, "validation": 8, "test": 8}
WORDS = ("the", "a", "film", "plot", "actor", "was", "is", "very", "not", "slow", "good", "bad", "Rome", "好", "电影")

IMAGES, TAGS, QUESTIONS, PLAIN = "ImageClassification", "SequenceLabelling", "QuestionAnswering", "LanguageModelling"


def kind_of(data: Mapping[str, Any]) -> str:
    """Return the name of the class that a data configuration builds."""
    return str(data["_target_"]).rpartition(".")[2]


def place_of(data: Mapping[str, Any], folder: Path) -> list[str]:
    """Return what to type for the data set of a configuration, after writing it below a folder."""
    if "name" not in data:
        return []
    draw, name, kind = random.Random(str(data["name"])), str(data["name"]), kind_of(data)
    if name in ("image_folder", "text_folder"):
        return [f"data.path={_class_folders(folder / name, draw, images=kind == IMAGES)}"]
    if kind == PLAIN:
        (folder / "plain.txt").write_text("\n\n".join(_text(draw) for _ in range(200)), encoding="utf-8")
        return [f"data.path={folder / 'plain.txt'}"]
    for split in {*(data.get("splits") or {}).values(), "train", "validation"}:
        _write(folder / name, split, [_row(data, kind, number, draw) for number in range(ROWS.get(split, 8))], data)
    if data.get("format") is None:
        return [f"data.root={folder}"]
    return [f"data.path={folder / name}"]


def _text(draw: random.Random, words: int = 8) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(2, words)))


def _row(data: Mapping[str, Any], kind: str, number: int, draw: random.Random) -> dict[str, Any]:
    if kind == IMAGES:
        return {data["image"]: _png(draw), data["label"]: number % len(data.get("labels") or "ab")}
    if kind == TAGS:
        words = _text(draw).split()
        return {data["tokens"]: words, data["tags"]: [draw.choice(data["labels"]) for _ in words]}
    if kind == QUESTIONS:
        words = _text(draw, 30)
        answers = {"text": [words.split()[0]], "answer_start": [0]}
        return {"id": str(number), "context": words, "question": _text(draw), "answers": answers, "title": str(number)}
    columns = [data["text"]] if isinstance(data["text"], str) else data["text"]
    return {**{column: _text(draw) for column in columns}, **_label(data, number, draw)}


def _label(data: Mapping[str, Any], number: int, draw: random.Random) -> dict[str, Any]:
    if data.get("multilabel"):
        return {data["label"]: sorted(draw.sample(range(data["num_labels"]), 2))}
    if data.get("regression"):
        return {data["label"]: draw.random() * 5}
    return {data["label"]: number % (data.get("num_labels") or 2)}


def _png(draw: random.Random) -> bytes:
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def _write(folder: Path, split: str, rows: Sequence[dict[str, Any]], data: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kind = data.get("format") or "parquet"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
        return
    if kind == "jsonl":
        lines = [json.dumps(row) for row in rows]
    else:
        comma = "," if kind == "csv" else "\t"
        lines = [comma.join(rows[0]), *(comma.join(map(str, row.values())) for row in rows)]
    (folder / f"{split}.{kind}").write_text("\n".join(lines), encoding="utf-8")


def _class_folders(folder: Path, draw: random.Random, images: bool) -> Path:
    for split, rows in ROWS.items():
        for number in range(rows) if split != "test" else ():
            file = folder / split / "ab"[number % 2] / f"{number}.{'png' if images else 'txt'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_png(draw) if images else _text(draw).encode())
    return folder
