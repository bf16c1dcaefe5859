"""How a batch becomes a model's arguments, and its output named tensors; an adapter overrides the usual rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from kd_lightning.core.batch import BOOKKEEPING, is_batch_field
from kd_lightning.core.errors import DataError
from kd_lightning.core.types import Batch

IMAGES = "pixel_values"
"""The field of a batch of images, Transformers' name for it."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Adapter:
    """How to call a model that does not follow the usual forms.

    Args:
        inputs: `(batch) -> model arguments`: a mapping is passed as keyword arguments, a tuple as positional ones,
            anything else as the only one. None: of a mapping the fields that `forward` names (with `**kwargs`, all but
            labels), or `pixel_values` for the one argument of a `forward(x)`; of `(x, y)` x.
        outputs: `(model output) -> {"logits": …}`. None: fields of a mapping or data class; a tensor is `logits`.

    Example:
        >>> adapter = Adapter(inputs=lambda batch: batch["image"], outputs=lambda scores: {"logits": scores})
        >>> adapter.inputs({"image": 1, "labels": 2})
        1

    """

    inputs: Callable[[Batch], Any] | None = None
    outputs: Callable[[Any], Mapping[str, Tensor]] | None = None


class ArgumentRule:
    """Turns batches into a model's arguments; reads the model's signature once.

    Args:
        model: its `forward` decides which fields of a mapping are passed.
        adapter: its `inputs`, if there are any, replace the rule.
        with_labels: also pass labels, so that Transformers models compute their own loss.

    """

    def __init__(self, model: nn.Module, adapter: Adapter | None = None, with_labels: bool = False) -> None:
        self.inputs = adapter.inputs if adapter is not None else None
        model, parameters = _unwrap(model)
        # Transformers models have **kwargs, too, but pass them on to their attention kernels.
        own = not type(model).__module__.startswith("transformers.")
        self.takes_any = own and any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.names = _named(parameters)
        self.required = [p.name for p in parameters if p.default is p.empty and p.name in self.names]
        self.model_name = type(model).__name__
        self.with_labels = with_labels

    def __call__(self, batch: Batch) -> Arguments:
        """Return `(args, kwargs)` for the model.

        Raises:
            DataError: if there is no adapter, and the batch lacks a required argument of the model's forward.

        """
        if self.inputs is not None:
            return _as_arguments(self.inputs(batch))
        args, kwargs = self._default(batch)
        missing = [name for name in self.required if name not in kwargs][len(args) :]
        if missing:
            raise DataError(
                f"{self.model_name}.forward also requires {', '.join(missing)}, which the batch does not have. Give "
                "an Adapter(inputs=…) that makes its arguments from a batch."
            )
        return args, kwargs

    def _default(self, batch: Batch) -> Arguments:
        if isinstance(batch, Mapping):
            if IMAGES in batch and IMAGES not in self.names and len(self.required) == 1 and not self.takes_any:
                return (batch[IMAGES],), {}  # networks for images call it `x`
            return (), self._by_name(batch)
        if isinstance(batch, Sequence) and not isinstance(batch, str) and batch:
            return ((), self._by_name(batch[0])) if isinstance(batch[0], Mapping) else ((batch[0],), {})
        return (batch,), {}

    def _by_name(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        named = {key: value for key, value in batch.items() if self._takes(key)}
        if not named:
            raise DataError(
                f"None of the batch's fields ({', '.join(map(str, batch))}) is an argument of the model's forward "
                f"({', '.join(sorted(self.names))}). Give an Adapter(inputs=…)."
            )
        return named

    def _takes(self, key: str) -> bool:
        if is_batch_field(key):
            return self.with_labels and key in self.names
        return key in self.names or (self.takes_any and key not in BOOKKEEPING)


def _as_arguments(value: Any) -> Arguments:
    if isinstance(value, Mapping):
        return (), dict(value)
    return (value, {}) if isinstance(value, tuple) else ((value,), {})


def _named(parameters: Sequence[inspect.Parameter]) -> set[str]:
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _unwrap(model: nn.Module) -> tuple[nn.Module, Sequence[inspect.Parameter]]:
    """Look through `torch.compile` and data-parallel wrappers, whose own forward names no argument."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    children = dict(model.named_children())
    inner = children.get("_orig_mod", children.get("module"))
    if inner is not None and len(children) == 1 and not _named(parameters):
        return _unwrap(inner)
    return model, parameters
