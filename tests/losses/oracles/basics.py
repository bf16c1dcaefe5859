"""What the oracles are made of, and gradients by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray
Oracle = Callable[[Any, Any, Array | None], float]


def softmax(x: Array) -> list[float]:
    shifted = [math.exp(value - max(x)) for value in x]
    return [value / sum(shifted) for value in shifted]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def ce(p: list[float], q: list[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


DIVERGENCE = {"kl": kl, "ce": ce}


def distributions(x: Array, mask: Array | None) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield each row that counts with the entries of its softmax (positions: only the unmasked ones)."""
    for row in np.ndindex(x.shape[:-1]):
        if mask is not None and mask.shape == x.shape:
            entries = [j for j in range(x.shape[-1]) if mask[row][j]]
        else:
            entries = list(range(x.shape[-1])) if mask is None or mask[row] else []
        if entries:
            yield row, entries


def smooth_l1(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def numeric_gradient(function: Callable[[list[Array]], float], inputs: list[Array], step: float = 1e-5) -> list[Array]:
    """Return the central-difference gradient of `function` for every entry of every input."""
    gradients = [np.zeros_like(x) for x in inputs]
    for x, gradient in zip(inputs, gradients, strict=True):
        for index in np.ndindex(x.shape):
            value = x[index]
            x[index] = value + step
            above = function(inputs)
            x[index] = value - step
            below = function(inputs)
            x[index] = value
            gradient[index] = (above - below) / (2 * step)
    return gradients


def directional_gradient(
    function: Callable[[list[Array]], float], inputs: list[Array], directions: list[Array], step: float = 1e-5
) -> float:
    """Return the central-difference derivative of `function` along a direction: one array for each input."""
    above, below = (
        function([x + sign * step * d for x, d in zip(inputs, directions, strict=True)]) for sign in (1, -1)
    )
    return (above - below) / (2 * step)
