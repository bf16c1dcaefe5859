"""A Transformers encoder as an ONNX graph with dynamic batch and length, checked against the model it came from."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_SHAPES = ((2, 8), (3, 13))
"""Batch and length of the trace, and of a second check that the trace has not frozen."""
_LIMIT_IN_ONE_FILE = 1 << 30
TOLERANCE = 1e-4


def write_onnx(model: Any, path: Path) -> None:
    """Write `model` to `path` in float32, and compare the graph with it at two shapes.

    Args:
        model: a Transformers model of `input_ids` or `pixel_values`, in eval mode on the CPU.
        path: the file; weights beyond 1 GiB go to a second file beside it.

    Raises:
        ConfigError: for missing packages, a model with other inputs, or a graph that disagrees.

    """
    _check_packages()
    model = model.float()
    trace = _example(model, *_SHAPES[0])
    graph = _Positional(model, trace)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    with _quiet():
        torch.onnx.export(
            graph,
            tuple(trace.values()),
            path,
            dynamo=True,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=(tuple(_dynamic(name) for name in graph.inputs),),
            external_data=size > _LIMIT_IN_ONE_FILE,
            verbose=False,
        )
    for batch, length in _SHAPES:
        _compare(graph, path, _example(model, batch, length))


class _Positional(nn.Module):
    """The model as a function from tensors to tensors, which is what a graph is."""

    def __init__(self, model: Any, example: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.inputs = list(example)
        with torch.no_grad():
            output = model(**example)
        self.outputs = [name for name, value in output.items() if isinstance(value, Tensor)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(output[name] for name in self.outputs)


def _example(model: Any, batch: int, length: int) -> dict[str, Tensor]:
    """Return inputs of that shape from a generator of their own; the last row is half padding."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        shape = (batch, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.rand(shape, generator=generator)}
    if model.main_input_name != "input_ids" or config.is_encoder_decoder:
        raise ConfigError(f"ONNX export knows encoders of text or images, not {type(model).__name__}.")
    length = min(length, getattr(config, "max_position_embeddings", length) // 2)
    ids = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.arange(length).ge(length // 2).long().expand(batch, length).contiguous()
    accepted = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def _dynamic(name: str) -> dict[int, str]:
    return {0: "batch"} if name == "pixel_values" else {0: "batch", 1: "length"}


def _compare(graph: _Positional, path: Path, example: dict[str, Tensor]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(graph.outputs, {name: value.numpy() for name, value in example.items()})
    with torch.no_grad():
        expected = graph(*example.values())
    for name, mine, theirs in zip(graph.outputs, expected, found, strict=True):
        gap = (mine - torch.from_numpy(theirs)).abs().max().item() / max(mine.abs().max().item(), 1.0)
        if not gap <= TOLERANCE:
            shapes = {key: list(value.shape) for key, value in example.items()}
            raise ConfigError(f"The ONNX graph's '{name}' differs from the model's by {gap:.2g} at {shapes}.")


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {', '.join(missing)}: pip install kd-lightning[onnx]")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own internals and about packages that play no part."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
