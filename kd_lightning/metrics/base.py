"""What a metric is that wants more than logits and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import Metric

from kd_lightning.core.types import Batch, Features


class BatchMetric(Metric):
    """Base of metrics that are updated with a model's outputs, by address, and the batch.

    They may give several scores, and may keep the predictions these are of, to be written in the data set's own format.
    States are torchmetrics' own (`add_state`), so they are gathered from all processes.

    Example:
        >>> import torch
        >>> class Confidence(BatchMetric):
        ...     gives = ("confidence",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_state("best", default=[], dist_reduce_fx="cat")
        ...     def update(self, features, batch):
        ...         self.best.append(features["logits"].softmax(-1).amax(-1))
        ...     def compute(self):
        ...         return {"confidence": torch.cat(self.best).mean()}
        >>> metric = Confidence()
        >>> metric.update({"logits": torch.zeros(3, 2)}, {})
        >>> metric.compute()
        {'confidence': tensor(0.5000)}

    """

    full_state_update: bool | None = False

    addresses: ClassVar[tuple[str, ...]] = ("logits",)
    """The outputs it reads."""

    gives: ClassVar[tuple[str, ...]] = ()
    """The names of its scores; none where it only notes predictions."""

    best: ClassVar[float] = 1.0
    """The score of one who is always right: 100 where scores are in percent."""

    def update(self, features: Features, batch: Batch) -> None:
        """Take in a batch.

        Args:
            features: the model's outputs at `addresses`.
            batch: what they are of.

        """
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        raise NotImplementedError

    def write(self, folder: Path) -> Path:
        """Write the predictions of the last `compute` in the data set's own format, and return the file."""
        raise NotImplementedError(f"{type(self).__name__} notes no predictions.")


class Shared:
    """Holds something that copies of its owner share, such as a whole data set.

    Args:
        it: the thing.

    Example:
        >>> import copy
        >>> shared = Shared([1, 2])
        >>> copy.deepcopy(shared).it is shared.it
        True

    """

    def __init__(self, it: Any) -> None:
        self.it = it

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self
