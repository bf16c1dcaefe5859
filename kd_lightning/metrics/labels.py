"""Records a classifier's predictions row by row, and writes them in GLUE's submission format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from kd_lightning.core.batch import field, required_field
from kd_lightning.core.files import write_text
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen
from kd_lightning.metrics.base import BatchMetric, Shared

FILE = "predictions.tsv"


class LabelRecorder(BatchMetric):
    """Records each row's predicted label, and writes GLUE's table of them: `index` and `prediction`, by row.

    Args:
        classes: the names of the labels, which are written; None writes their numbers.
        multilabel: whether a row has several labels: those with probabilities above one half, written with commas.
        regression: whether the model predicts a number per row, which is written.
        row_numbers: `(split) -> line of the file of each row`, where rows of the file were left out, or its own file;
            None, or a result of None, if rows are numbered as in the file. Copies of the recorder share it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> recorder = LabelRecorder(classes=["no", "yes"])
        >>> recorder.update({"logits": torch.eye(2)}, {"sample_id": torch.tensor([1, 0])})
        >>> recorder.compute()
        {}
        >>> with TemporaryDirectory() as folder:
        ...     recorder.write(Path(folder)).read_text().splitlines()
        ['index\\tprediction', '0\\tyes', '1\\tno']

    """

    rows: list[Tensor]
    values: list[Tensor]

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        multilabel: bool = False,
        regression: bool = False,
        row_numbers: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__()
        self.classes = list(classes) if classes is not None else None
        self.multilabel = multilabel
        self.regression = regression
        self._row_numbers = Shared(row_numbers)  # a method of a data module, which holds the whole data set
        self.split = "validation"
        self.predicted: dict[int, Any] = {}
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, batch: Batch) -> None:
        """Record the predictions of a batch, from logits (B, C); (B, 1) for numbers."""
        self.split = field(batch, "split") or "validation"
        self.rows.append(required_field(batch, "sample_id"))
        logits = widen(features["logits"])
        if self.regression:
            self.values.append(logits.squeeze(-1))
        elif self.multilabel:
            self.values.append((logits > 0).to(torch.int8))
        else:
            self.values.append(logits.argmax(-1))

    def compute(self) -> dict[str, Tensor]:
        """Gather the predictions into `predicted`, by row; there are no scores."""
        rows, values = (dim_zero_cat(state).tolist() if len(state) else [] for state in (self.rows, self.values))
        self.predicted = dict(sorted(zip(rows, values, strict=True)))
        return {}

    def write(self, folder: Path) -> Path:
        """Write the predictions of the last `compute` into `predictions.tsv`."""
        numbers = self._row_numbers.value(self.split) if self._row_numbers.value is not None else None
        lines = [
            f"{row if numbers is None else numbers[row]}\t{self._text(value)}" for row, value in self.predicted.items()
        ]
        write_text(folder / FILE, "\n".join(["index\tprediction", *lines, ""]))
        return folder / FILE

    def _text(self, value: Any) -> str:
        if isinstance(value, list):
            return ",".join(self._text(number) for number, chosen in enumerate(value) if chosen)
        if isinstance(value, float):
            return f"{value:.9g}"
        return self.classes[value] if self.classes is not None else str(value)
