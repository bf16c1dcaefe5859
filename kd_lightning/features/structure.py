"""What a model consists of: its modules by path, seen through wrappers, and the named fields of its output."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")

PLAIN_FIELDS = ("logits", "loss")


@dataclass(frozen=True)
class Node:
    """One module of a model.

    Args:
        path: its name without the wrappers' own parts.
        outer: what the parent calls (a wrapper, if there is one): the place for hooks.
        module: what is inside: the place to look at classes and configs.
    """

    path: str
    outer: nn.Module
    module: nn.Module


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside any number of wrappers of DDP, FSDP, `torch.compile` and checkpointing.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(layer)) is layer, unwrap(layer) is layer
        (True, True)

    """
    while True:
        inner = next((module._modules[name] for name in _WRAPPERS if name in module._modules), None)
        if inner is None and isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = module.module
        if inner is None:
            return module
        module = inner


def tree(model: nn.Module) -> dict[str, Node]:
    """Return every module by path, in registration order; one that is registered twice is there twice."""

    def walk(node: Node) -> Iterator[Node]:
        yield node
        for name, child in node.module._modules.items():
            if child is not None:
                yield from walk(Node(f"{node.path}.{name}".lstrip("."), child, unwrap(child)))

    return {node.path: node for node in walk(Node("", model, unwrap(model)))}


def clean(path: str, nodes: dict[str, Node]) -> str:
    """Return a path without the parts that wrappers add: `module.encoder._orig_mod.0` → `encoder.0`."""
    path = ".".join(part for part in path.split(".") if part not in _WRAPPERS)
    return path.removeprefix("module.") if path not in nodes else path


def is_transformers_model(module: nn.Module) -> bool:
    """Return whether a module is a Transformers model, without importing Transformers to find out."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def is_causal(module: nn.Module) -> bool:
    """Return whether a module is a Transformers language model whose logits are of the next token (`…ForCausalLM`)."""
    if not is_transformers_model(module):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(module).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def takes_images(model: nn.Module) -> bool:
    """Return whether a model's main input is `pixel_values`: by its attribute `main_input_name`, or its forward.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, pixel_values): ...
        >>> takes_images(Net()), takes_images(nn.Conv2d(3, 8, 3))
        (True, False)

    """
    named = getattr(type(model), "main_input_name", None)
    if isinstance(named, str):
        return named == "pixel_values"
    names = [name for name in inspect.signature(inspect.unwrap(type(model).forward)).parameters if name != "self"]
    return names[:1] == ["pixel_values"]


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
    with_loss = len(parts) > 1 and isinstance(parts[0], Tensor) and parts[0].dim() == 0
    return dict(zip(("loss", "logits") if with_loss else ("logits",), parts, strict=False))


def declared_fields(model: nn.Module) -> list[str]:
    """Return the tensors a model declares as its output; `logits` and `loss` for one that declares nothing.

    A Transformers model declares them by the return annotation of its forward.
    """
    if is_transformers_model(model):
        for output in _annotated(type(model).forward):
            if dataclasses.is_dataclass(output):
                kinds = {field.name: str(field.type) for field in dataclasses.fields(output)}
                return [name for name, kind in kinds.items() if "Tensor" in kind and "tuple" not in kind.lower()]
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
