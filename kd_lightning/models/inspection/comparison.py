"""What one model costs beside another: parameters, memory, multiply-adds, latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.core.adapter import Adapter, ArgumentRule, Arguments
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch
from kd_lightning.models.inspection.timing import eval_without_grad, forward_ms
from kd_lightning.models.inspection.tree import parameter_tree

_KINDS = {"parameters": "{:,}", "bytes": "{:,}", "multiply_adds": "{:,}", "latency_ms": "{:.2f}"}


@dataclass(frozen=True)
class Cost:
    """What a model costs on one batch.

    Attributes:
        parameters: number of values, shared ones once.
        bytes: memory of these values.
        multiply_adds: of one forward pass, as far as matrix products, convolutions and attention go.
        latency_ms: milliseconds of one forward pass in eval mode, the least of several.

    """

    parameters: int
    bytes: int
    multiply_adds: int
    latency_ms: float


def cost(model: nn.Module, batch: Batch, adapter: Adapter | None = None, repeats: int = 10) -> Cost:
    """Measure a model on a batch, on the device where it is; it stays as it was.

    Args:
        model: any module.
        batch: what it eats; labels are left out, as in distillation.
        adapter: for models that do not follow the usual forms.
        repeats: timed passes, after two untimed ones.

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
    """Return a table of what models cost on one batch, the first being the measure: teacher first, then students.

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
    # The counter does not know a CPU's fused attention; spelt out as products it is counted everywhere.
    with eval_without_grad(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return counter.get_total_flops() // 2
