"""Metrics over a whole output and its batch, and the collection of all metrics of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from kd_lightning.core.batch import required_field
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.precision import widen

T = TypeVar("T")


class BatchMetric(Metric):
    """Base of metrics that are updated with a model's outputs, by address, and the batch.

    They may compute several scores, and may record the predictions, to write them in the data set's own format.
    States are torchmetrics' own (`add_state`), so they are gathered from all processes.

    Example:
        >>> import torch
        >>> class Confidence(BatchMetric):
        ...     score_names = ("confidence",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_state("largest", default=[], dist_reduce_fx="cat")
        ...     def update(self, features, batch):
        ...         self.largest.append(features["logits"].softmax(-1).amax(-1))
        ...     def compute(self):
        ...         return {"confidence": torch.cat(self.largest).mean()}
        >>> metric = Confidence()
        >>> metric.update({"logits": torch.zeros(3, 2)}, {})
        >>> metric.compute()
        {'confidence': tensor(0.5000)}

    """

    full_state_update: bool | None = False

    addresses: ClassVar[tuple[str, ...]] = ("logits",)
    """The model outputs that `update` reads."""

    score_names: ClassVar[tuple[str, ...]] = ()
    """The keys of what `compute` returns; none for a metric that only records predictions."""

    best_value: ClassVar[float] = 1.0
    """The score of a perfect model: 100 where scores are in percent."""

    def update(self, features: Features, batch: Batch) -> None:
        """Update the state with a batch.

        Args:
            features: the model's outputs at `addresses`.
            batch: the batch that they were computed from.

        """
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        raise NotImplementedError

    def write(self, folder: Path) -> Path:
        """Write the predictions of the last `compute` in the data set's own format, and return the file."""
        raise NotImplementedError(f"{type(self).__name__} records no predictions.")


@contextmanager
def _named(name: str, metric: Metric, logits: Tensor, labels: Tensor) -> Iterator[None]:
    """Raise one sentence where a metric of torchmetrics does not take what a model gives."""
    try:
        yield
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise ConfigError(
            f"The metric '{name}' ({type(metric).__name__}) cannot be computed of logits {tuple(logits.shape)} and "
            f"labels {tuple(labels.shape)}: {reason}."
        ) from error


class Scores(nn.Module):
    """All metrics of a run by name, copied, so that two modules never update the same metric.

    Args:
        metrics: those of torchmetrics are updated with widened logits ((B,) where there is one value per row) and the
            batch's labels, and have one score of their name; a `BatchMetric` is updated with features and batch, and
            has scores of its own names.

    Raises:
        ConfigError: if the metrics have no names, or two scores have the same name.

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
        for name, metric in metrics.items():
            if not isinstance(metric, Metric):
                raise ConfigError(f"Expected metric '{name}' to be a torchmetrics.Metric but got {metric!r}.")
        own = {name: metric.clone() for name, metric in metrics.items()}
        pairs = [(score, metric) for name, metric in own.items() for score in score_names_of(name, metric)]
        self.names = [score for score, _ in pairs]
        self.best_values = {
            score: metric.best_value if isinstance(metric, BatchMetric) else 1.0 for score, metric in pairs
        }
        self.of_batches = nn.ModuleDict({n: m for n, m in own.items() if isinstance(m, BatchMetric)})
        # Without groups: two metrics that agree on the first batch would be taken for one.
        of_logits: dict[str, Metric | MetricCollection]
        of_logits = {n: m for n, m in own.items() if not isinstance(m, BatchMetric)}
        self.of_logits = MetricCollection(of_logits, compute_groups=False)
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"Two metrics compute a score named '{twice}'. Leave one of them out.")

    @property
    def addresses(self) -> list[str]:
        """The model outputs that `update` reads, each once."""
        own = ["logits"] if len(self.of_logits) else []
        return list(dict.fromkeys([*own, *(address for m in self._batch_metrics() for address in m.addresses)]))

    def update(self, features: Features, batch: Batch) -> None:
        """Update every metric with a batch."""
        if len(self.of_logits):
            logits, labels = widen(features["logits"]), required_field(batch, "labels")
            one_value = logits.ndim == labels.ndim + 1 and logits.shape[-1] == 1  # as metrics of regression take them
            for name, own in self.of_logits.items():
                with _named(name, own, logits, labels):
                    own.update(logits.squeeze(-1) if one_value else logits, labels)
        for metric in self._batch_metrics():
            metric.update(features, batch)

    def compute(self) -> dict[str, Tensor]:
        """Return all scores since the last `reset`, over all processes, in the order of `names`."""
        found = self.of_logits.compute() if len(self.of_logits) else {}
        for metric in self._batch_metrics():
            found |= metric.compute()
        return {name: found[name].float() for name in self.names}

    def reset(self) -> None:
        """Reset every metric."""
        self.of_logits.reset()
        for metric in self._batch_metrics():
            metric.reset()

    def _batch_metrics(self) -> list[BatchMetric]:
        return [metric for metric in self.of_batches.values() if isinstance(metric, BatchMetric)]


def score_names_of(name: str, metric: Metric) -> list[str]:
    """Return the names of the scores that a metric of this name computes."""
    return list(metric.score_names) if isinstance(metric, BatchMetric) else [name]


class Shared(Generic[T]):
    """Holds a value that deep copies of its owner share, such as a whole data set.

    Args:
        value: the shared value.

    Example:
        >>> import copy
        >>> shared = Shared([1, 2])
        >>> copy.deepcopy(shared).value is shared.value
        True

    """

    def __init__(self, value: T) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, object]) -> Shared[T]:
        return self
