"""LayerDrop: whole layers of the student are left out at random, so that it learns to do with fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.training.strategies.replacement import Forward, LayerReplacement


class LayerDrop(LayerReplacement):
    """Leaves each layer of the student out with a probability: LayerDrop, Fan et al. 2020 (1909.11556), section 3.

    A layer that is left out hands its input on. Nothing is rescaled, and in evaluation all layers run. The paper takes
    0.2, or 0.1 for small models.

    Args:
        rate: probability of a layer to be left out.

    Raises:
        ConfigError: if the rate is not in [0, 1).

    Example:
        >>> LayerDrop(0.2).rates(progress=0.5, layers=2)
        [0.8, 0.8]

    """

    needs_teacher = False

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        if not is_finite_number(rate) or not 0 <= rate < 1:
            raise ConfigError(f"Expected argument `rate` of LayerDrop to be in [0, 1) but got {rate!r}.")
        self.rate = rate
        self._shapes: dict[int, int] = {}

    def rates(self, progress: float, layers: int) -> Sequence[float]:
        """Return the probability of each layer to run."""
        return [1 - self.rate] * layers

    def replacement(self, index: int, own: Forward) -> Forward:
        """Return what hands a layer's input on, in the form of the layer's output."""

        def identity(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if index not in self._shapes:  # a tensor, or a tuple of so many parts: only the layer itself can tell
                with torch.no_grad():
                    made = own(hidden, *args, **kwargs)
                self._shapes[index] = len(made) if isinstance(made, tuple) else 0
            length = self._shapes[index]
            return (hidden, *[None] * (length - 1)) if length else hidden

        return identity
