"""A metric that is not a number, as Pearson's correlation with equal scores, is null; the run ends well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPED = ["experiment=stsb_t3", "teacher=tiny_random", "debug=fast", "data.max_length=16", "baseline=false"]


def test_an_undefined_metric_is_null_and_loses_no_stage(
    many: Any, tmp_path: Path, write_rows: Callable[..., None]
) -> None:
    for split, rows in (("train", 8), ("validation", 4)):
        texts = [f"film {number} was good" for number in range(rows)]
        write_rows(tmp_path / "alike" / f"{split}.parquet", sentence1=texts, sentence2=texts, score=[2.5] * rows)
    typed = [*TYPED, f"data.root={tmp_path}", "data.name=alike", "data.subset=null", "data.label=score"]
    found = many({"x": typed})["x"]
    assert found["code"] == 0, found
    metrics = json.loads((found["folder"] / "metrics.json").read_text())
    assert metrics["student"]["metrics"]["pearson"] is None
    assert (found["folder"] / "student" / "model.safetensors").is_file()
    log = (found["folder"] / "train.log").read_text()
    assert "pearson is undefined on the validation split, and null in metrics.json." in log
