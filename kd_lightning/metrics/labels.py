"""What a classifier predicts, row by row, as GLUE wants it handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, required_field
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen
from kd_lightning.metrics.base import BatchMetric, Shared

FILE = "predictions.tsv"


class LabelRecorder(BatchMetric):
    """Notes each row's predicted label, and writes GLUE's table of them: `index` and `prediction`, by row.

    A prediction is the label's name where the data has names, else its number; of several labels per row, those above
    one half, with commas; of a number to predict, that number.

    Args:
        data: the data module: its `classes`, `multilabel`, `regression` and `row_numbers(split)` are read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from types import SimpleNamespace
        >>> kind = {"classes": ["no", "yes"], "multilabel": False, "regression": False}
        >>> recorder = LabelRecorder(SimpleNamespace(**kind, row_numbers=lambda split: None))
        >>> recorder.update({"logits": torch.eye(2)}, {"sample_id": torch.tensor([1, 0])})
        >>> recorder.compute()
        {}
        >>> with TemporaryDirectory() as folder:
        ...     recorder.write(Path(folder)).read_text().splitlines()
        ['index\\tprediction', '0\\tyes', '1\\tno']

    """

    rows: list[Tensor]
    values: list[Tensor]

    def __init__(self, data: Any) -> None:
        super().__init__()
        self._data = Shared(data)
        self.split = "validation"
        self.predicted: dict[int, Any] = {}
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Note the predictions of a batch, from logits (B, C); (B, 1) for numbers."""
        self.split = field(batch, "split") or "validation"
        self.rows.append(required_field(batch, "sample_id"))
        self.values.append(self._predict(widen(features["logits"])))

    def compute(self) -> dict[str, Tensor]:
        """Gather what was predicted into `predicted`, by row; there is nothing to score."""
        rows, values = (dim_zero_cat(state).tolist() if len(state) else [] for state in (self.rows, self.values))
        self.predicted = dict(sorted(zip(rows, values, strict=True)))
        return {}

    def write(self, folder: Path) -> Path:
        """Write the predictions of the last `compute` into `predictions.tsv`."""
        numbers = self._data.it.row_numbers(self.split)
        places = {row: row if numbers is None else numbers[row] for row in self.predicted}
        lines = [f"{places[row]}\t{self._said(value)}" for row, value in self.predicted.items()]
        (folder / FILE).write_text("\n".join(["index\tprediction", *lines, ""]), encoding="utf-8")
        return folder / FILE

    def _predict(self, logits: Tensor) -> Tensor:
        if self._data.it.regression:
            return logits.squeeze(-1)
        if self._data.it.multilabel:
            return (logits > 0).to(torch.int8)
        return logits.argmax(-1)

    def _said(self, value: Any) -> str:
        if isinstance(value, list):
            return ",".join(self._name(number) for number, there in enumerate(value) if there)
        return f"{value:.9g}" if isinstance(value, float) else self._name(value)

    def _name(self, number: int) -> str:
        names = self._data.it.classes
        return names[number] if names is not None else str(number)
