"""What leaving early costs and saves: scores, mean depth and latency of a model with exits at several speeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from kd_lightning.core.adapter import ArgumentRule
from kd_lightning.core.batch import required_field, sub_batch
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.modes import in_eval_mode
from kd_lightning.core.types import Batch

SPEEDS = tuple(round(0.1 * i, 1) for i in range(11))
BATCH_SIZES = (1, 32)
"""How many rows are timed together."""

Inputs: TypeAlias = dict[str, Tensor]
Score: TypeAlias = Callable[[Tensor, Tensor], float]
"""(logits (N, C), labels (N,)) → a number."""


@dataclass(frozen=True)
class ExitPoint:
    """What a model with exits does at one speed.

    Args:
        speed: see `adaptive` of such models; 0 is the whole model, without branches.
        score: the share of right answers, or what else scores them.
        depth: mean number of layers that a row runs.
        latency_ms: by batch size, measured milliseconds per row.

    """

    speed: float
    score: float
    depth: float
    latency_ms: Mapping[int, float]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of right answers.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        0.5

    """
    return float((logits.argmax(-1) == labels).double().mean())


def exit_curve(
    model: nn.Module,
    batches: Iterable[Batch],
    speeds: Sequence[float] = SPEEDS,
    score: Score = accuracy,
    timed_rows: int = 64,
    repeats: int = 3,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[ExitPoint]:
    """Evaluate a model with exits at several speeds, on the device where it is.

    Scores and depths are those of all rows. Latency is measured, not computed from depths: the first `timed_rows` rows
    are run one by one, and again in batches, each cut to its longest row; of several such passes the median counts. A
    batch is done when its last row is, so that what is saved gets less as batches get larger.

    Args:
        model: what `early_exit` builds.
        batches: inputs and `labels` by name.
        speeds: in [0, 1].
        score: of all rows' logits and labels.
        timed_rows: 0 leaves latencies out.
        repeats: timed passes at each speed and batch size.
        batch_sizes: how many rows are timed together.

    Raises:
        ConfigError: if the model has no exits, there are no batches, or a number cannot be.

    Example:
        >>> import kd_lightning as kd
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=8, num_attention_heads=2, intermediate_size=8)
        >>> model = kd.students.early_exit(tiny, num_hidden_layers=3, num_labels=2, exit_width=4)
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 5]]), "labels": torch.tensor([0, 1])}
        >>> [point.depth for point in exit_curve(model, [batch], speeds=(0.0, 1.0), timed_rows=0)]
        [3.0, 1.0]

    """
    check_has_exits(model)
    _check_numbers(timed_rows=(timed_rows, 0), repeats=(repeats, 1), batch_sizes=(batch_sizes, 1))
    rule, device = ArgumentRule(model), next(model.parameters()).device
    own = [sub_batch(batch, "student") for batch in batches]
    if not own:
        raise ConfigError("There are no rows to measure exits on.")
    inputs: list[Inputs] = [move_data_to_device(rule(batch)[1], device) for batch in own]
    labels = torch.cat([torch.as_tensor(required_field(batch, "labels")).cpu() for batch in own])
    timed = {size: _regrouped(inputs, timed_rows, size) for size in batch_sizes} if timed_rows else {}
    points = []
    with in_eval_mode(model.modules()):
        for speed in speeds:
            logits, depth = _answers(model, inputs, speed)
            latency = {size: _ms_per_row(model, groups, speed, repeats) for size, groups in timed.items()}
            points.append(ExitPoint(float(speed), score(logits, labels), depth, latency))
    return points


def check_has_exits(model: nn.Module) -> None:
    """Raise an error for a model without exits.

    Raises:
        ConfigError: with what to use instead.

    """
    if not callable(getattr(model, "adaptive", None)):
        raise ConfigError(
            f"A {type(model).__name__} has no exits to measure: build it by kd.students.early_exit, student=early_exit."
        )


def _check_numbers(**given: tuple[Any, int]) -> None:
    """Refuse what is no whole number of at least so much, or no sequence of them."""
    for name, (value, least) in given.items():
        for number in value if isinstance(value, Sequence) else [value]:
            if not isinstance(number, int) or number < least:
                raise ConfigError(f"Expected argument `{name}` to be a whole number, at least {least}, got {value!r}.")


def _answers(model: Any, inputs: Sequence[Inputs], speed: float) -> tuple[Tensor, float]:
    """Return the logits of all rows, on the CPU, and their mean depth."""
    found = [model.adaptive(speed, **batch) for batch in inputs]
    depths = torch.cat([one.layers for one in found]).double()
    return torch.cat([one.logits for one in found]).cpu(), float(depths.mean())


def _regrouped(inputs: Sequence[Inputs], rows: int, size: int) -> list[Inputs]:
    """Return the first rows in batches of one size, without the columns in which all of a batch is padding."""
    made: list[Inputs] = []
    for batch in inputs:
        many = len(next(iter(batch.values())))
        made += [{k: x[i : i + 1] for k, x in batch.items()} for i in range(min(many, rows - len(made)))]
    single = [_trimmed(row) for row in made]
    return [_joined(single[i : i + size]) for i in range(0, len(single), size)]


def _trimmed(row: Inputs) -> Inputs:
    mask = row.get("attention_mask")
    if mask is None:
        return row
    kept = mask[0].bool()
    return {name: x[:, kept] if x.shape[:2] == mask.shape else x for name, x in row.items()}


def _joined(rows: Sequence[Inputs]) -> Inputs:
    """Join rows of different lengths, with zeros behind the shorter ones, which their masks leave out."""

    def padded(x: Tensor, length: int) -> Tensor:
        return nn.functional.pad(x, (0, length - x.shape[1])) if x.dim() == 2 else x

    def joined(name: str) -> Tensor:
        return torch.cat([padded(row[name], max(r[name].shape[1] for r in rows)) for row in rows])

    return {name: joined(name) for name in rows[0]}


def _ms_per_row(model: Any, groups: Sequence[Inputs], speed: float, repeats: int) -> float:
    """Return the median of several passes' milliseconds per row, after one untimed batch."""
    on_cuda = next(model.parameters()).is_cuda
    rows = sum(len(next(iter(group.values()))) for group in groups)
    seconds = []
    model.adaptive(speed, **groups[0])
    for _ in range(repeats):
        start = _now(on_cuda)
        for group in groups:
            model.adaptive(speed, **group)
        seconds.append(_now(on_cuda) - start)
    return 1000 * median(seconds) / rows


def _now(on_cuda: bool) -> float:
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
