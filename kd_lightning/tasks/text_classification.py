"""Classification of texts or pairs of texts: one class, several labels, or a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kd_lightning.core.errors import ConfigError
from kd_lightning.losses import HardLabels, LabelMSE, LogitMSE, SoftLabels
from kd_lightning.metrics import BatchMetric, LabelRecorder
from kd_lightning.tasks.base import Task

if TYPE_CHECKING:
    from kd_lightning.data import DataModule


class ClassificationTask(Task):
    """One class per text: logits (B, C) against labels (B,)."""

    head = "sequence-classification"

    def check_data(self, data: DataModule) -> None:
        """Raise an error where the data is made for another task, or has a single class.

        Raises:
            ConfigError: with what to type instead.

        """
        super().check_data(data)
        if not (self.multilabel or self.regression) and data.num_labels == 1:
            raise ConfigError("Classification needs two classes or more, but data.num_labels is 1: correct it.")

    def recorder(self, data: DataModule) -> BatchMetric | None:
        """Return what writes GLUE's `predictions.tsv`."""
        if not data.writes_predictions:
            return None
        return LabelRecorder(data.classes, self.multilabel, self.regression, data.row_numbers)


class MultilabelTask(ClassificationTask):
    """Any number of labels per text: logits (B, C) against labels of 0 and 1, (B, C), one sigmoid each."""

    multilabel = True
    hard_loss = HardLabels
    soft_loss = SoftLabels
    soft_cross_entropy = SoftLabels

    def model_options(self, data: DataModule) -> dict[str, Any]:
        """Return what a model's configuration says of several labels."""
        return super().model_options(data) | {"problem_type": "multi_label_classification"}


class RegressionTask(ClassificationTask):
    """A number per text: outputs (B, 1) against labels (B,)."""

    regression = True
    hard_loss = LabelMSE
    soft_loss = LogitMSE
    soft_cross_entropy = LogitMSE

    def model_options(self, data: DataModule) -> dict[str, Any]:
        """Return what a model's configuration says of a number."""
        return super().model_options(data) | {"problem_type": "regression"}
