"""Counting how often the student runs in one training step."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_lightning.core.errors import ConfigError


class ForwardCounter:
    """Counts the forward passes of a model, from its making to `close()`.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> passes = ForwardCounter(model)
        >>> _ = model(torch.zeros(1, 2))
        >>> passes.count
        1

    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self._name = type(getattr(model, "_orig_mod", model)).__name__
        self.close = model.register_forward_pre_hook(self._one_more).remove

    def check(self) -> None:
        """Refuse a step that has no forward pass, or several: whose features would be compared?

        Raises:
            ConfigError: unless there was exactly one.

        """
        if self.count != 1:
            raise ConfigError(
                f"training_step ran the student ({self._name}) {self.count} times, and distillation needs the features "
                "of exactly one forward pass. Point `student` at the module that runs once, or call the objective "
                "in training_step yourself."
            )

    def _one_more(self, *_: Any) -> None:
        self.count += 1
