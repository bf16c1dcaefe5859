"""What a model costs, alone and beside another: parameters, memory, multiply-adds, latency."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.core.adapter import Adapter, ArgumentRule, Arguments
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch
from kd_lightning.models.inspection.tree import parameter_tree

log = logging.getLogger(__name__)

_KINDS = {"parameters": "{:,}", "bytes": "{:,}", "multiply_adds": "{:,}", "latency_ms": "{:.2f}"}


@dataclass(frozen=True)
class Cost:
    """What a model costs on one batch.

    Attributes:
        parameters: number of values, shared ones once.
        bytes: memory of these values.
        multiply_adds: of one forward pass, counting matrix products, convolutions and attention only.
        latency_ms: milliseconds of one forward pass in eval mode, the minimum of several.

    """

    parameters: int
    bytes: int
    multiply_adds: int
    latency_ms: float


def cost(model: nn.Module, batch: Batch, adapter: Adapter | None = None, repeats: int = 10) -> Cost:
    """Measure a model on a batch, on the device where both are.

    Args:
        model: any module; unchanged.
        batch: the model's inputs; labels are left out, as in distillation.
        adapter: for models with other inputs than the batch's fields.
        repeats: timed passes, after two untimed ones.

    Raises:
        ConfigError: if `repeats` is below 1.

    Example:
        >>> import torch
        >>> cost(nn.Linear(4, 2), (torch.zeros(3, 4), None)).multiply_adds
        24

    """
    if repeats < 1:
        raise ConfigError(f"Expected argument `repeats` to be at least 1 but got {repeats}.")
    arguments = ArgumentRule(model, adapter)(batch)
    tree = parameter_tree(model)
    latency = forward_ms(model, arguments, repeats)
    return Cost(tree.parameters, tree.bytes, _multiply_adds(model, arguments), latency)


def compare(models: Mapping[str, nn.Module], batch: Batch, repeats: int = 10) -> str:
    """Return a table of what models cost on one batch, as ratios to the first: teacher first, then students.

    Example:
        >>> import torch
        >>> table = compare({"teacher": nn.Linear(4, 8), "student": nn.Linear(4, 2)}, (torch.zeros(1, 4), None))
        >>> [row.split()[:4] for row in table.splitlines()][:2]
        [['teacher', 'student'], ['parameters', '40', '10', '×4.0']]

    """
    costs = {name: cost(model, batch, repeats=repeats) for name, model in models.items()}
    first, *others = costs
    rows = [["", first, *(cell for name in others for cell in (name, ""))]]
    for kind, form in _KINDS.items():
        values = {name: getattr(found, kind) for name, found in costs.items()}
        cells = [form.format(values[first])]
        for name in others:
            ratio = f"×{values[first] / values[name]:.1f}" if values[name] else ""
            cells += [form.format(values[name]), ratio]
        rows.append([kind.replace("_", " ").replace("latency ms", "latency, ms"), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))]) for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _multiply_adds(model: nn.Module, arguments: Arguments) -> int:
    args, kwargs = arguments
    # The counter does not count a CPU's fused attention; the math kernel's matrix products are counted on any device.
    with eval_without_grad(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return counter.get_total_flops() // 2


@contextmanager
def eval_without_grad(model: nn.Module) -> Iterator[None]:
    """Run the block with the model in eval mode and without gradient; each module's mode is restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def forward_ms(model: nn.Module, arguments: Arguments, repeats: int) -> float:
    """Return the milliseconds of a forward pass in eval mode: the minimum of several, after two untimed ones.

    The minimum, because other work on the machine only ever adds. The modes of the model's modules are unchanged.

    Example:
        >>> forward_ms(nn.Linear(2, 2), ((torch.zeros(1, 2),), {}), repeats=3) > 0
        True

    """
    args, kwargs = arguments
    on_cuda = any(p.is_cuda for p in model.parameters())
    seconds = []
    with eval_without_grad(model):
        for _ in range(repeats + 2):
            if on_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            model(*args, **kwargs)
            if on_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[2:])


def latency_ms(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...], repeats: int = 20) -> float | None:
    """Return the milliseconds of a forward pass on example inputs, on the device where the model is.

    A model that cannot be called with these inputs has no latency, which is logged: a missing figure must not lose
    the result of a run.

    Args:
        model: any module; unchanged.
        inputs: its keyword arguments, or a tuple of positional ones; tensors are moved to the model's device, floating
            ones converted to its dtype.
        repeats: timed passes, of which the fastest counts, after two untimed ones.

    Returns:
        Milliseconds, or None if the model cannot be called with the inputs.

    Example:
        >>> latency_ms(nn.Linear(2, 2), (torch.zeros(1, 2),)) is None
        False

    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    moved = move_data_to_device(inputs, parameter.device)
    moved = apply_to_collection(moved, Tensor, lambda x: x.to(parameter.dtype) if x.is_floating_point() else x)
    arguments: Arguments = ((), dict(moved)) if isinstance(moved, Mapping) else (tuple(moved), {})
    try:
        return round(forward_ms(model, arguments, repeats), 3)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        log.warning("No latency for %s: %s", type(model).__name__, error)
        return None
