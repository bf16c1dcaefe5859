"""The named fields of what a model returns."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from kd_lightning.features.recorded import is_transformers_model

PLAIN_FIELDS = ("logits", "loss")


def output_fields(output: Any) -> Mapping[str, Any]:
    """Return a model's output as named fields.

    Args:
        output: a mapping, dataclass or named tuple has its own names; a tensor is `logits`; of another tuple the first
            tensor is `logits`, or, if it is a scalar, `loss` with the logits after it.

    Example:
        >>> import torch
        >>> sorted(output_fields((torch.tensor(0.5), torch.zeros(2, 3))))
        ['logits', 'loss']

    """
    if isinstance(output, Mapping):
        return output
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if hasattr(output, "_asdict"):
        return output._asdict()
    parts = output if isinstance(output, (tuple, list)) else (output,)
    names = ("loss", "logits") if _is_scalar(parts) else ("logits",)
    return dict(zip(names, parts, strict=False))


def declared_fields(model: nn.Module) -> list[str]:
    """Return the tensors a model says its output has; `logits` and `loss` for one that says nothing.

    A Transformers model says so by the return annotation of its forward.
    """
    if is_transformers_model(model):
        for output in _annotated(type(model).forward):
            if dataclasses.is_dataclass(output):
                return [field.name for field in dataclasses.fields(output) if _is_tensor(field.type)]
    return list(PLAIN_FIELDS)


def _annotated(forward: Any) -> Iterator[Any]:
    function = inspect.unwrap(forward)
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[function.__module__]))
        except Exception:  # names that exist for type checkers only
            return
    yield from typing.get_args(annotation) or (annotation,)


def _is_tensor(annotation: Any) -> bool:
    return "Tensor" in str(annotation) and "tuple" not in str(annotation).lower()


def _is_scalar(parts: Any) -> bool:
    return len(parts) > 1 and isinstance(parts[0], Tensor) and parts[0].dim() == 0
