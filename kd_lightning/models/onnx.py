"""A model as an ONNX graph with a dynamic batch (and length, for tokens), checked against the model it came from."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.features.structure import output_fields
from kd_lightning.models.plain import first_line

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOKEN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
TOLERANCE = 1e-4
IMAGE_SIZE = 224
"""Height and width of images of a model that does not tell its own."""
_SHAPES = ((2, 8), (3, 13))
"""Batch and length of the trace, and of a second check that neither is fixed in the graph."""
_LIMIT_IN_ONE_FILE = 1 << 30


def write_onnx(model: nn.Module, path: Path, example: Mapping[str, Tensor] | tuple[Tensor, ...] | None = None) -> None:
    """Write `model` to `path` in float32, and compare the graph with it at two shapes.

    Args:
        model: in eval mode on the CPU; changed to float32.
        path: the file; weights beyond 1 GiB go to a second file beside it.
        example: the model's inputs, batch first; None for Transformers models of `input_ids`, and for models whose
            `main_input_name` is `pixel_values`.

    Raises:
        ConfigError: if packages are missing, the model has other inputs and there is no example, the exporter does not
            support the model, or the graph gives other outputs than the model.

    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}: pip install kd-lightning[onnx]")
    model = model.float()
    if example is None:
        trace, check = (_encoder_inputs(model, batch, length) for batch, length in _SHAPES)
    else:
        trace, check = _resized(model, example)
    graph = _Positional(model, trace)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    dynamic = [{0: "batch", 1: "length"} if _are_tokens(trace) else {0: "batch"} for _ in trace]
    with _quiet():
        try:
            torch.onnx.export(
                graph,
                tuple(trace.values()),
                path,
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=(tuple(dynamic),),
                external_data=size > _LIMIT_IN_ONE_FILE,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().split("\n")[0]
            raise ConfigError(f"A {type(model).__name__} cannot be exported to ONNX: {reason}") from error
    for inputs in (trace, check):
        _compare(graph, path, inputs)


class _Positional(nn.Module):
    """The model as a function of positional tensors that returns a tuple of tensors, as a graph does."""

    def __init__(self, model: nn.Module, example: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.inputs = list(example)
        with torch.no_grad():
            output = _named_outputs(model(**example))
        self.outputs = [name for name, value in output.items() if isinstance(value, Tensor)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = _named_outputs(self.model(**dict(zip(self.inputs, inputs, strict=True))))
        return tuple(output[name] for name in self.outputs)


def _named_outputs(output: Any) -> Mapping[str, Any]:
    """Return the fields of an output; those of a plain tuple are numbered."""
    if type(output) in (tuple, list) and len(output) > 1:
        return {f"output_{index}": value for index, value in enumerate(output)}
    return output_fields(output)


def _encoder_inputs(model: Any, batch: int, length: int) -> dict[str, Tensor]:
    """Return random inputs of an encoder of texts or images, from a generator of their own.

    The last text is half padding. Sizes of images are the configuration's, or those of a model without one.
    """
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    generator = torch.Generator().manual_seed(0)
    if main == "pixel_values":
        about = model if config is None else config
        size = getattr(about, "image_size", IMAGE_SIZE)
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch, getattr(about, "num_channels", 3), height, width)
        return {"pixel_values": torch.rand(shape, generator=generator)}
    if config is None or main != "input_ids" or config.is_encoder_decoder:
        raise ConfigError(
            f"Without example inputs, ONNX export supports Transformers encoders of text or images, not "
            f"{type(model).__name__}: give example={{'name': tensor}}."
        )
    length = min(length, getattr(config, "max_position_embeddings", length) // 2)
    ids = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.arange(length).ge(length // 2).long().expand(batch, length).contiguous()
    accepted = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def _resized(model: nn.Module, example: Mapping[str, Tensor] | tuple[Tensor, ...]) -> Iterator[dict[str, Tensor]]:
    """Yield the example's first rows twice: two of them, then three (of fewer tokens), repeated if there are less."""
    if not isinstance(example, Mapping):
        example = dict(zip(inspect.signature(model.forward).parameters, example, strict=False))
    named = {str(name): value for name, value in example.items()}
    wrong = next((name for name, value in named.items() if not (isinstance(value, Tensor) and value.dim())), None)
    if wrong is not None or not named:
        raise ConfigError(f"The ONNX example must be tensors with the batch first, but '{wrong}' is not one.")
    for rows in (2, 3):
        made = {}
        for name, value in named.items():
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value
            copies = [value] * -(-rows // max(len(value), 1))
            made[name] = torch.cat(copies)[:rows]
            if rows == 3 and _are_tokens(named):
                made[name] = made[name][:, : value.shape[1] // 2 + 1]
        yield made


def _are_tokens(inputs: Mapping[str, Tensor]) -> bool:
    """Tell whether all inputs are (batch, length); others beside them may depend on the length in ways of their own."""
    return TOKEN_INPUTS.issuperset(inputs) and all(value.dim() == 2 for value in inputs.values())


def _compare(graph: _Positional, path: Path, example: dict[str, Tensor]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = {key: list(value.shape) for key, value in example.items()}
    try:
        found = session.run(graph.outputs, {name: value.numpy() for name, value in example.items()})
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise ConfigError(f"The ONNX graph does not run at {shapes}: {first_line(error)}") from error
    with torch.no_grad():
        expected = graph(*example.values())
    for name, mine, theirs in zip(graph.outputs, expected, found, strict=True):
        mine = mine.float()
        gap = (mine - torch.from_numpy(theirs)).abs().max().item() / max(mine.abs().max().item(), 1.0)
        if not gap <= TOLERANCE:
            raise ConfigError(f"The ONNX graph's '{name}' differs from the model's by {gap:.2g} at {shapes}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Run the block without the exporter's warnings about its own internals and packages that are not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
