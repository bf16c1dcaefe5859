"""Losses on relations between the samples of a batch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .basics import Array, Oracle, average, smooth_l1
from .maps import pooled


def rows(x: Array) -> list[Array]:
    return [sample.ravel() for sample in x]


def length(x: Array) -> float:
    return math.sqrt(sum(value**2 for value in x))


def unit(x: Array) -> Array:
    return x / length(x)


def rkd_distance(student: Array, teacher: Array, mask: Array | None) -> float:
    """Park et al. 2019, eq. 4 to 6: distances over the mean distance of different samples; all B² pairs."""

    def distances(x: Array) -> dict[tuple[int, int], float]:
        found = {(i, j): length(a - b) for (i, a), (j, b) in itertools.product(enumerate(rows(x)), repeat=2)}
        mean = average([d for (i, j), d in found.items() if i != j])
        return {pair: d / mean for pair, d in found.items()}

    d_s, d_t = distances(student), distances(teacher)
    return average([smooth_l1(d_s[pair] - d_t[pair]) for pair in d_s])


def rkd_angle(student: Array, teacher: Array, mask: Array | None) -> float:
    """Park et al. 2019, eq. 7 to 9: cosines at the middle one of three samples; all B³, 0 where two are one."""

    def cosine(x: list[Array], i: int, j: int, k: int) -> float:
        return 0.0 if j in (i, k) else float(unit(x[i] - x[j]) @ unit(x[k] - x[j]))

    s, t = rows(student), rows(teacher)
    places = itertools.product(range(len(s)), repeat=3)
    return average([smooth_l1(cosine(s, *place) - cosine(t, *place)) for place in places])


def gram(x: list[Array]) -> Array:
    return np.array([[float(a @ b) for b in x] for a in x])


def similarity_preserving(student: Array, teacher: Array, mask: Array | None) -> float:
    """Tung & Mori 2019, eq. 1 to 4."""
    g_s, g_t = (np.array([unit(row) for row in gram(rows(x))]) for x in (student, teacher))
    return sum((g_s[place] - g_t[place]) ** 2 for place in np.ndindex(g_s.shape)) / len(g_s) ** 2


def pkt(student: Array, teacher: Array, mask: Array | None) -> float:
    """Passalis & Tefas 2018, eq. 4 to 9, as the authors compute: diagonal and mean, ε = 1e-7."""

    def shares(x: Array) -> Array:
        similar = (gram([unit(row) for row in rows(x)]) + 1) / 2
        return np.array([row / sum(row) for row in similar])

    p, q = shares(teacher), shares(student)
    return average([p[i] * math.log((p[i] + 1e-7) / (q[i] + 1e-7)) for i in np.ndindex(p.shape)])


def correlation_congruence(gamma: float, order: int = 2) -> Oracle:
    """Peng et al. 2019, eq. 6: the Taylor series of the Gaussian kernel of unit rows."""

    def series(x: Array) -> Array:
        products = gram([unit(row) for row in rows(x)])
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1))

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        return average(list(((series(student) - series(teacher)) ** 2).ravel()))

    return oracle


def irg(vertices: float, edges: float, transformation: float) -> Oracle:
    """Liu et al. 2019, eq. 3 to 9, in KD-Zoo's form: squared distances over the largest one; see IRG."""

    def edges_of(x: Array) -> Array:
        found = np.array([[sum((a - b) ** 2) for b in rows(x)] for a in rows(x)])
        return found / max(found.ravel())

    def moved(first: Array, second: Array) -> list[float]:
        if first.shape[2] > second.shape[2]:
            first = pooled(first, second.shape[2])
        if second.shape[1] == 2 * first.shape[1]:
            second = np.stack([(second[:, 2 * c] + second[:, 2 * c + 1]) / 2 for c in range(first.shape[1])], 1)
        distances = [sum((a - b) ** 2) for a, b in zip(rows(first), rows(second), strict=True)]
        return [d / max(distances) for d in distances]

    def mse(one: Any, other: Any) -> float:
        return float(((np.asarray(one) - np.asarray(other)) ** 2).mean())

    def oracle(student: Any, teacher: Any, mask: Array | None) -> float:
        between = [mse(edges_of(student[k]), edges_of(teacher[k])) for k in range(3)]
        change = mse(moved(*student[:2]), moved(*teacher[:2]))
        return vertices * mse(student[3], teacher[3]) + edges * average(between) + transformation * change

    return oracle
