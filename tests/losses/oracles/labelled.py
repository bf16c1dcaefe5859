"""Losses that need labels: of classes, positions or numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import Array, Oracle, average, ce, distributions, kl, sigmoid, softmax


def shifted(oracle: Oracle, labels: Any) -> Oracle:
    """Wen et al. 2019, probability shift: in each row the largest logit and the label's change places."""

    def shift(student: Array, teacher: Array, mask: Array | None) -> float:
        teacher = teacher.copy()
        for row, entries in distributions(teacher, mask):
            label, best = int(labels[row]), max(entries, key=lambda j: teacher[row][j])
            if label in entries:
                teacher[row][label], teacher[row][best] = teacher[row][best], teacher[row][label]
        return oracle(student, teacher, mask)

    return shift


def hard_label(smoothing: float = 0.0) -> Oracle:
    """Cross entropy with (1 − ε) one-hot + ε uniform; label smoothing as in Szegedy et al. 2016, section 7."""

    def oracle(student: Array, labels: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            label = int(labels[row])
            if label not in entries:
                continue
            target = [(1 - smoothing) * (j == label) + smoothing / len(entries) for j in entries]
            losses.append(ce(target, softmax(student[row][entries])))
        return average(losses)

    return oracle


def hard_labels(smoothing: float = 0.0) -> Oracle:
    def oracle(student: Array, labels: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            for c in entries:
                if labels[row][c] != -100:
                    y, q = labels[row][c] * (1 - smoothing) + smoothing / 2, sigmoid(student[row][c])
                    losses.append(-y * math.log(q) - (1 - y) * math.log(1 - q))
        return average(losses)

    return oracle


def label_mse() -> Oracle:
    def oracle(student: Array, labels: Array, mask: Array | None) -> float:
        losses = []
        for row, _ in distributions(student, mask):
            if labels[row] != -100:
                losses.append((float(student[row][0]) - float(labels[row])) ** 2)
        return average(losses)

    return oracle


def labelled_rows(student: Array, mask: Array | None, labels: Any) -> list[tuple[tuple[int, ...], int]]:
    """Return each row that counts and has a label, with its label."""
    rows = [(row, int(labels[row])) for row, _ in distributions(student, mask)]
    return [(row, label) for row, label in rows if label != -100]


def but(x: Any, label: int) -> Array:
    """Return a row without the label's entry."""
    return np.array([value for c, value in enumerate(x) if c != label])


def dkd(labels: Any, temperature: float, alpha: float, beta: float) -> Oracle:
    """Zhao et al. 2022, eq. 5 to 7: α·TCKD + β·NCKD, each a KL divergence at temperature T, times T²."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, y in labelled_rows(student, mask, labels):
            p, q = softmax(teacher[row] / temperature), softmax(student[row] / temperature)
            target = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
            n_t = [value / (1 - p[y]) for c, value in enumerate(p) if c != y]
            n_s = [value / (1 - q[y]) for c, value in enumerate(q) if c != y]
            losses.append(alpha * target + beta * kl(n_t, n_s))
        return temperature**2 * average(losses)

    return oracle


def nkd(labels: Any, temperature: float, gamma: float) -> Oracle:
    """2303.13005, eq. 8: −p_t,y log p_s,y at T = 1, and γ·T² times a cross entropy of the other classes at T."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, y in labelled_rows(student, mask, labels):
            target = -softmax(teacher[row])[y] * math.log(softmax(student[row])[y])
            n_t, n_s = (softmax(but(x[row], y) / temperature) for x in (teacher, student))
            losses.append(target + gamma * temperature**2 * ce(n_t, n_s))
        return average(losses)

    return oracle


def wsld(labels: Any, temperature: float, student_at: Array) -> Oracle:
    """Zhou et al. 2021, eq. 8 and 9: rows weighted by 1 − exp(−CE_s / CE_t) at T = 1; the weights have no gradient.

    `student_at`: the student's logits that the weights are of, so that differences do not see them move.
    """

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, y in labelled_rows(student, mask, labels):
            of_student, of_teacher = (-math.log(softmax(x[row])[y]) for x in (student_at, teacher))
            weight = 1 - math.exp(-of_student / (of_teacher + 1e-7))
            losses.append(weight * kl(softmax(teacher[row] / temperature), softmax(student[row] / temperature)))
        return temperature**2 * average(losses)

    return oracle


def wkdl(
    labels: Any, classifier: Any, temperature: float, weight: float, sharpen: float, regulariser: float, iterations: int
) -> Oracle:
    """Lv et al. 2024, section 3.1, with the cost of the teacher's classifier: d_ij = 1 − cos(w_i, w_j).

    Sinkhorn's algorithm by powers: K = exp(−C/reg), v = q / Kᵀu and u = p / Kv in turn, u = 1/N at first.
    """
    rows = np.asarray(classifier, dtype=np.float64)
    cosine = [[float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for b in rows] for a in rows]
    costs = np.array([[1 - math.exp(-sharpen * (1 - c)) for c in row] for row in cosine])

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, y in labelled_rows(student, mask, labels):
            target = -softmax(teacher[row])[y] * math.log(softmax(student[row])[y])
            p, q = (np.array(softmax(but(x[row], y) / temperature)) for x in (student, teacher))
            others = [c for c in range(len(costs)) if c != y]
            cost = costs[others][:, others]
            kernel, u = np.exp(-cost / regulariser), np.full(len(p), 1 / len(p))
            for _ in range(iterations):
                v = q / (kernel.T @ u)
                u = p / (kernel @ v)
            moved = sum(u[i] * kernel[i, j] * v[j] * cost[i, j] for i, j in np.ndindex(cost.shape))
            losses.append(target + weight * moved)
        return average(losses)

    return oracle
