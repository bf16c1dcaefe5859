"""Easy rows first: batches of a growing share of the rows, in the order of how difficult the teacher finds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.data.sampler import TrainBatches

STREAM = 0x0C1  # keeps these draws apart from those of orders and augmentations


@dataclass(frozen=True)
class Curriculum:
    """By what rows are ordered, and how fast all of them come in: λ(e) = min(1, λ₀ + (1 − λ₀)·e / E) of epoch e.

    Competence-based curricula (Platanios et al. 2019, 1903.09848) with a linear pace; difficulty is the teacher's, and
    does not change.

    Args:
        by: `loss`, the teacher's cross entropy with the label at T = 1, or `entropy`, of its probabilities.
        start: λ₀, the share of the rows in the first epoch.
        epochs: E, the epoch from which on all rows are there.

    Raises:
        ConfigError: if `by` is neither, `start` is not in (0, 1], or `epochs` below 1.

    Example:
        >>> curriculum = Curriculum(by="entropy", start=0.5, epochs=2)
        >>> [curriculum.share(epoch) for epoch in range(3)]
        [0.5, 0.75, 1.0]

    """

    by: Literal["loss", "entropy"] = "loss"
    start: float = 0.3
    epochs: int = 10

    def __post_init__(self) -> None:
        """Check the settings once."""
        if self.by not in ("loss", "entropy"):
            raise ConfigError(f"'curriculum.by' cannot be {self.by!r}: choose loss or entropy.")
        if not is_finite_number(self.start) or not 0 < self.start <= 1:
            raise ConfigError(f"'curriculum.start' is a share of the rows in (0, 1], and cannot be {self.start!r}.")
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1:
            raise ConfigError(f"'curriculum.epochs' is a number of epochs, at least 1, and cannot be {self.epochs!r}.")

    def share(self, epoch: int) -> float:
        """Return λ of an epoch."""
        return min(1.0, self.start + (1 - self.start) * epoch / self.epochs)


class CurriculumBatches(TrainBatches):
    """Batches of the easiest rows of an epoch, as many as an epoch of all rows has: rows then come more than once.

    Which rows come once more is a function of (seed, epoch); each comes ⌊N / n⌋ or ⌈N / n⌉ times.

    Args:
        lengths: length of each row.
        batch_size: rows per batch and process.
        curriculum: how many of them each epoch has.
        difficulties: of each row.
        options: those of `TrainBatches`.

    Example:
        >>> batches = CurriculumBatches([1] * 4, 2, Curriculum(start=0.5, epochs=2), np.array([3.0, 1.0, 2.0, 4.0]))
        >>> sorted(row for rows in batches for row in rows)
        [1, 1, 2, 2]

    """

    def __init__(
        self, lengths: Any, batch_size: int, curriculum: Curriculum, difficulties: np.ndarray, **options: Any
    ) -> None:
        super().__init__(lengths, batch_size, **options)
        self.curriculum = curriculum
        self._easiest_first = np.argsort(difficulties, kind="stable")

    def present(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch."""
        rows = len(self.lengths)
        easiest = self._easiest_first[: max(1, math.ceil(self.curriculum.share(epoch) * rows))]
        whole, rest = divmod(rows, len(easiest))
        more = np.random.default_rng([STREAM, self.seed, epoch]).choice(easiest, rest, replace=False)
        return np.concatenate([np.tile(easiest, whole), more])
