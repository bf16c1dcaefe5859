"""The metrics of a run under one roof: those over logits and labels, and those over whole batches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from kd_lightning.core.batch import required_field
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen
from kd_lightning.metrics.base import BatchMetric


class Scores(nn.Module):
    """Metrics by name, copied, so that no two owners update one metric.

    Args:
        metrics: ordinary ones are updated with widened logits, (B,) where there is one value each, and the batch's
            labels, and give a score of their name;
            a `BatchMetric` is updated with features and batch, and gives scores of its own names.

    Raises:
        ConfigError: for metrics without names, or two scores of one name.

    Example:
        >>> import torch
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> scores = Scores({"accuracy": MulticlassAccuracy(2)})
        >>> scores.update({"logits": torch.eye(2)}, {"labels": torch.tensor([0, 1])})
        >>> scores.compute(), scores.names, scores.addresses
        ({'accuracy': tensor(1.)}, ['accuracy'], ['logits'])

    """

    def __init__(self, metrics: MetricCollection | Mapping[str, Metric]) -> None:
        super().__init__()
        if not isinstance(metrics, MetricCollection | Mapping):
            name = type(metrics).__name__
            raise ConfigError(f"Expected argument `metrics` to be metrics by name, {{'accuracy': …}}, but got {name}.")
        own = {name: metric.clone() for name, metric in metrics.items()}
        self.names = [score for name, metric in own.items() for score in names_of(name, metric)]
        self.best = {score: getattr(m, "best", 1.0) for name, m in own.items() for score in names_of(name, m)}
        self.of_batches = nn.ModuleDict({n: m for n, m in own.items() if isinstance(m, BatchMetric)})
        self.of_logits = MetricCollection({n: m for n, m in own.items() if not isinstance(m, BatchMetric)})
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"Two metrics give a score called '{twice}'. Leave one of them out.")

    @property
    def addresses(self) -> list[str]:
        """The outputs of the model that are read, each once."""
        wanted = ["logits"] if len(self.of_logits) else []
        wanted += [address for metric in self._of_batches() for address in metric.addresses]
        return list(dict.fromkeys(wanted))

    def update(self, features: Features, batch: Batch) -> None:
        """Take in a batch."""
        if len(self.of_logits):
            logits, labels = widen(features["logits"]), required_field(batch, "labels")
            one_value = logits.ndim == labels.ndim + 1 and logits.shape[-1] == 1  # as metrics of regression take them
            self.of_logits.update(logits.squeeze(-1) if one_value else logits, labels)
        for metric in self._of_batches():
            metric.update(features, batch)

    def compute(self) -> dict[str, Tensor]:
        """Return all scores since the last `reset`, over all processes, in the order of `names`."""
        found = self.of_logits.compute() if len(self.of_logits) else {}
        for metric in self._of_batches():
            found |= metric.compute()
        return {name: found[name].float() for name in self.names}

    def reset(self) -> None:
        """Forget what was seen."""
        self.of_logits.reset()
        for metric in self._of_batches():
            metric.reset()

    def _of_batches(self) -> list[BatchMetric]:
        return [metric for metric in self.of_batches.values() if isinstance(metric, BatchMetric)]


def names_of(name: str, metric: Metric) -> list[str]:
    """Return the names of the scores that a metric of this name gives."""
    return list(metric.gives) if isinstance(metric, BatchMetric) else [name]
