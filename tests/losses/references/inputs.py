"""The numbers that the references and our losses both see: a seed and a shape stand for an array."""

from __future__ import annotations

from typing import Any

import numpy as np


def draw(shape: tuple[int, ...] | list[int], seed: int) -> np.ndarray:
    """Return standard normal numbers in float64, the same on every machine."""
    return np.random.RandomState(seed).standard_normal(tuple(shape))


def uniform(shape: tuple[int, ...] | list[int], seed: int) -> np.ndarray:
    """Return numbers in [0, 1): the part behind the point of `draw`."""
    numbers = draw(shape, seed)
    return numbers - np.floor(numbers)


def orthonormal(shape: tuple[int, ...] | list[int], seed: int) -> np.ndarray:
    """Return a matrix whose columns (rows, if it is wide) are orthonormal."""
    numbers = draw(shape, seed)
    wide = numbers.shape[0] < numbers.shape[1]
    q, r = np.linalg.qr(numbers.T if wide else numbers)
    q = q * np.sign(np.diag(r))
    return q.T if wide else q


def distances(shape: tuple[int, ...] | list[int], seed: int) -> np.ndarray:
    """Return a symmetric matrix of numbers in [0, 1) with a diagonal of zeros."""
    numbers = uniform(shape, seed)
    return (numbers + numbers.T) / 2 * (1 - np.eye(len(numbers)))


KINDS = {"normal": draw, "uniform": uniform, "orthonormal": orthonormal, "distances": distances}


def array(spec: dict[str, Any]) -> np.ndarray:
    """Return what an entry of `figures.json` describes.

    Either `values` are given, or `shape` and `seed`, then `kind` (normal), `scale` (1), `shift` (0) and
    `repeat`: pairs of rows (to, from) that are made equal.
    """
    if "values" in spec:
        return np.array(spec["values"])
    numbers = KINDS[spec.get("kind", "normal")](spec["shape"], spec["seed"])
    numbers = numbers * spec.get("scale", 1.0) + spec.get("shift", 0.0)
    for to, source in spec.get("repeat", []):
        numbers[to] = numbers[source]
    return numbers
