"""Losses on tokens' hidden states and attention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import linprog

from .basics import DIVERGENCE, Array, Oracle, average, kl, softmax


def tokens(x: Array, mask: Array | None) -> Iterator[tuple[int, int]]:
    for b, i in np.ndindex(x.shape[:2]):
        if mask is None or mask[b, i]:
            yield b, i


def lengths(batch: int, length: int, mask: Array | None) -> list[list[int]]:
    """Return each sample's unmasked positions."""
    return [[i for i in range(length) if mask is None or mask[b, i]] for b in range(batch)]


def hidden_mse(student: Array, teacher: Array, mask: Array | None) -> float:
    width = student.shape[-1]
    return average([(student[b, i, d] - teacher[b, i, d]) ** 2 for b, i in tokens(student, mask) for d in range(width)])


def hidden_cosine(student: Array, teacher: Array, mask: Array | None) -> float:
    """Sanh et al. 2019, section 3."""
    losses = []
    for b, i in tokens(student, mask):
        s, t = student[b, i], teacher[b, i]
        losses.append(1 - sum(s * t) / math.sqrt(sum(s * s) * sum(t * t)))
    return average(losses)


def pkd(student: Array, teacher: Array, mask: Array | None) -> float:
    """Sun et al. 2019, eq. 7: squared distance of unit vectors, at each sample's first real token."""
    losses = []
    for b, real in enumerate(lengths(*student.shape[:2], mask)):
        if real:
            s, t = student[b, real[0]], teacher[b, real[0]]
            losses.append(sum((s / math.sqrt(sum(s * s)) - t / math.sqrt(sum(t * t))) ** 2))
    return average(losses)


def fsp(student: tuple[Array, Array], teacher: tuple[Array, Array], mask: Array | None) -> float:
    """Yim et al. 2017, eq. 1 and 2."""
    losses = []
    for b, real in enumerate(lengths(*student[0].shape[:2], mask)):
        for i, j in np.ndindex(student[0].shape[-1], student[1].shape[-1]):
            if real:
                g_s = sum(student[0][b, n, i] * student[1][b, n, j] for n in real) / len(real)
                g_t = sum(teacher[0][b, n, i] * teacher[1][b, n, j] for n in real) / len(real)
                losses.append((g_s - g_t) ** 2)
    return average(losses)


def nst(by_length: bool = False) -> Oracle:
    """Mean over pairs of real tokens of the squared difference of inner products, each divided by its width."""

    def oracle(student: tuple[Array, Array], teacher: tuple[Array, Array], mask: Array | None) -> float:
        axis = 1 if by_length else 2
        losses = []
        for b, real in enumerate(lengths(*student[0].shape[:2], mask)):
            for i, j in itertools.product(real, real):
                g_s = float(student[0][b, i] @ student[1][b, j]) / student[0].shape[axis]
                g_t = float(teacher[0][b, i] @ teacher[1][b, j]) / teacher[0].shape[axis]
                losses.append((g_s - g_t) ** 2)
        return average(losses)

    return oracle


def combine_heads(maps: Array, heads: str) -> Array:
    """Return (B, H′, L, L): the maps, or their mean or sum as a single head."""
    if heads == "each":
        return maps
    return sum(maps[:, h] for h in range(maps.shape[1]))[:, None] / (maps.shape[1] if heads == "mean" else 1)


def attention_mse(heads: str = "each") -> Oracle:
    """Jiao et al. 2020 (TinyBERT), eq. 7, over real tokens."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        student, teacher = combine_heads(student, heads), combine_heads(teacher, heads)
        losses = []
        for b, real in enumerate(lengths(student.shape[0], student.shape[2], mask)):
            for h, i, j in itertools.product(range(student.shape[1]), real, real):
                losses.append((student[b, h, i, j] - teacher[b, h, i, j]) ** 2)
        return average(losses)

    return oracle


def attention_divergence(kind: str = "ce", scores: bool = False, heads: str = "each") -> Oracle:
    """Wang et al. 2020 (MiniLM), eq. 5, over real queries and keys; cross entropy without the teacher's entropy."""

    def probabilities(maps: Array, mask: Array | None) -> Array:
        result = np.zeros_like(maps)
        for b, real in enumerate(lengths(maps.shape[0], maps.shape[2], mask)):
            for h, i in itertools.product(range(maps.shape[1]), real):
                row = softmax(maps[b, h, i][real]) if scores else maps[b, h, i][real]
                result[b, h, i, real] = row
        return combine_heads(result, heads)

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        student, teacher = probabilities(student, mask), probabilities(teacher, mask)
        losses = []
        for b, real in enumerate(lengths(student.shape[0], student.shape[2], mask)):
            for h, i in itertools.product(range(student.shape[1]), real):
                p, q = teacher[b, h, i][real], np.maximum(student[b, h, i][real], 1e-12)
                losses.append(DIVERGENCE[kind](list(p), list(q)))
        return average(losses)

    return oracle


def self_relation(relation_heads: int) -> Oracle:
    """Wang et al. 2021 (MiniLMv2), eq. 3 to 5: relation head r takes its own slice of the concatenated heads."""

    def vectors(x: Array, b: int, i: int) -> Array:
        return np.concatenate([x[b, h, i] for h in range(x.shape[1])]).reshape(relation_heads, -1)

    def relation(x: Array, b: int, r: int, i: int, real: list[int]) -> list[float]:
        query = vectors(x, b, i)[r]
        return softmax(np.array([query @ vectors(x, b, j)[r] / math.sqrt(len(query)) for j in real]))

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for b, real in enumerate(lengths(student.shape[0], student.shape[2], mask)):
            for r, i in itertools.product(range(relation_heads), real):
                losses.append(kl(relation(teacher, b, r, i, real), relation(student, b, r, i, real)))
        return average(losses)

    return oracle


def cross_relations(relation_heads: int) -> Oracle:
    """Zhang et al. 2022 (MiniViT), eq. 8 and 9: the relation of each tensor with each, averaged."""

    def vector(x: Array, b: int, i: int, r: int) -> Array:
        return np.concatenate([x[b, h, i] for h in range(x.shape[1])]).reshape(relation_heads, -1)[r]

    def relation(x: Array, y: Array, b: int, r: int, i: int, real: list[int]) -> list[float]:
        query = vector(x, b, i, r)
        return softmax(np.array([query @ vector(y, b, j, r) / math.sqrt(len(query)) for j in real]))

    def oracle(student: Any, teacher: Any, mask: Array | None) -> float:
        found = []
        for p, q in itertools.product(range(len(student)), repeat=2):
            losses = []
            for b, real in enumerate(lengths(student[0].shape[0], student[0].shape[2], mask)):
                for r, i in itertools.product(range(relation_heads), real):
                    own, target = (relation(side[p], side[q], b, r, i, real) for side in (student, teacher))
                    losses.append(kl(target, own))
            found.append(average(losses))
        return average(found)

    return oracle


def cosine_relation(student: Array, teacher: Array, mask: Array | None) -> float:
    """Zhang et al. 2022 (MiniViT), eq. 10 with unit rows: squares of the differences of cosines between tokens."""

    def token(x: Array, b: int, i: int) -> Array:
        vector = x[b, i] if x.ndim == 3 else x[b].reshape(x.shape[1], -1)[:, i]
        return vector / math.sqrt(vector @ vector)

    tokens = student.shape[1] if student.ndim == 3 else student.shape[2] * student.shape[3]
    losses = []
    for b, real in enumerate(lengths(student.shape[0], tokens, mask)):
        for i, j in itertools.product(real, repeat=2):
            own, target = (token(x, b, i) @ token(x, b, j) for x in (student, teacher))
            losses.append((own - target) ** 2)
    return average(losses)


def transport(cost: Array, rows: Array, columns: Array) -> tuple[Array, float]:
    """The linear programme of the earth mover's distance: min Σ F_ij D_ij, F ≥ 0, F 1 = rows, Fᵀ 1 = columns."""
    s, t = cost.shape
    sums = np.zeros((s + t, s, t))
    for i, j in np.ndindex(s, t):
        sums[i, i, j] = sums[s + j, i, j] = 1
    limits = np.concatenate([rows, columns])
    found = linprog(cost.ravel(), A_eq=sums.reshape(s + t, s * t), b_eq=limits, bounds=(0, None), method="highs")
    assert found.success, found.message
    return found.x.reshape(s, t), found.fun


def emd(pair: Oracle) -> Oracle:
    """Li et al. 2020 (2020.emnlp-main.242), section 3, with uniform layer weights: the least Σ F_ij D_ij."""

    def oracle(student: Any, teacher: Any, mask: Array | None) -> float:
        cost = np.array([[pair(s, t, mask) for t in teacher] for s in student])
        return transport(cost, *(np.full(size, 1 / size) for size in cost.shape))[1]

    return oracle
