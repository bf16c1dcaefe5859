"""A model that returns its features beside its outputs: the form to compile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Features
from kd_lightning.features.hooks import no_hook
from kd_lightning.features.tap import FeatureTap


class TappedModel(nn.Module):
    """Wraps a model so that its forward returns `(outputs, features)`.

    The tap stands from construction to `close()`, so `torch.compile(TappedModel(…), fullgraph=True)` traces it with
    the model. Hooks that are put on after a model's first compiled call do not run.

    Args:
        model: the model; it stays what it is, apart from the tap.
        addresses: as for `FeatureTap`.
        outputs: as for `FeatureTap`.

    Raises:
        AddressError: an address the model does not have.

    Example:
        >>> import torch
        >>> tapped = TappedModel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), ["0"])
        >>> outputs, features = tapped(torch.zeros(5, 4))
        >>> outputs.shape, features["0"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
        >>> tapped.close()

    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Sequence[str],
        outputs: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.addresses = tuple(addresses)
        self.outputs = outputs
        self.tap = FeatureTap(model, addresses, outputs)
        self.tap.__enter__()

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Features]:
        """Run the model; return its outputs and its features by address."""
        if not self.tap.entered:
            raise AddressError("This TappedModel is closed; call its `model`, or make a new one.")
        outputs = self.model(*args, **kwargs)
        return outputs, self.tap.take()

    def close(self) -> None:
        """Take the tap off the model, for good. Closing twice does no harm."""
        if self.tap.entered:
            self.tap.__exit__(None, None, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> TappedModel:
        return _rebuild(copy.deepcopy(self.model, memo), self.addresses, self.outputs, self.tap.entered)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.model, self.addresses, self.outputs, self.tap.entered)


def _rebuild(model: nn.Module, addresses: Sequence[str], outputs: Any, entered: bool) -> TappedModel:
    for module in model.modules():
        for found in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in found.items() if hook is no_hook]:
                del found[key]
    tapped = TappedModel(model, addresses, outputs)
    if not entered:
        tapped.close()
    return tapped
