"""Running a model on a batch while its addressed features are collected: shared by the student and live teachers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from kd_lightning.core.adapter import Adapter, ArgumentRule
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features import FeatureTap, TappedModel, model_info
from kd_lightning.features.record import AllCollected


class Runner:
    """Calls a model by way of an adapter and returns its features; leaves the model as it was between calls.

    A plain class, not a module: whoever owns the model decides whether it is registered.

    Args:
        model: any module.
        adapter: for models that do not follow the usual forms.
        compile: run the model and its taps as one compiled graph, from `open` to `close`.
        stop_early: run no deeper than the deepest feature, where nothing of the model's output is asked for.

    """

    def __init__(
        self, model: nn.Module, adapter: Adapter | None = None, compile: bool = False, stop_early: bool = False
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.compile = compile
        self.stop_early = stop_early
        self.addresses: tuple[str, ...] = ()
        self._tap: FeatureTap | None = None
        self._tapped: TappedModel | None = None
        self._compiled: Any = None

    @property
    def info(self) -> ModelInfo:
        """What is known of the model before it runs."""
        return model_info(self.model, has_outputs=self._outputs is not None)

    @property
    def _outputs(self) -> Any:
        return self.adapter.outputs if self.adapter is not None else None

    def ask(self, addresses: Sequence[str]) -> None:
        """Settle which features every later call returns.

        Raises:
            AddressError: for an address the model does not have.

        """
        self.close()
        self.addresses = tuple(addresses)
        self._rule = ArgumentRule(self.model, self.adapter, with_labels="loss" in self.addresses)
        self._tap = None if self.compile else FeatureTap(self.model, self.addresses, self._outputs, self.stop_early)

    def open(self) -> None:
        """Put the taps of a compiled model on, before its first call: later they would be ignored in silence."""
        if self.compile and self._tapped is None:
            self._tapped = TappedModel(self.model, self.addresses, self._outputs)
            self._compiled = torch.compile(self._tapped)

    def close(self) -> None:
        """Take standing taps off; calling again opens them again."""
        if self._tapped is not None:
            self._tapped.close()
        self._tapped = self._compiled = None

    def __call__(self, batch: Batch) -> Features:
        """Return the asked-for features of one forward pass."""
        args, kwargs = self._rule(batch)
        if self.compile:
            self.open()
            return self._compiled(*args, **kwargs)[1]
        assert self._tap is not None, "ask() comes before the first call"
        with self._tap:
            with suppress(AllCollected):
                self.model(*args, **kwargs)
            return self._tap.take()

    def __getstate__(self) -> dict[str, Any]:
        """Leave taps behind when copied or pickled; `ask` makes them anew."""
        return {**self.__dict__, "_tap": None, "_tapped": None, "_compiled": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_rule" in state:
            self.ask(self.addresses)
