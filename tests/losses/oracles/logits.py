"""Losses on logits."""

from __future__ import annotations

import math

from .basics import DIVERGENCE, Array, Oracle, average, ce, distributions, kl, sigmoid, softmax


def soft_target(
    temperature: float = 1.0, teacher_temperature: float | None = None, kind: str = "kl", squared: bool = True
) -> Oracle:
    """Hinton et al. 2015, section 2: T_s·T_t · mean over rows of KL(p_t ‖ p_s)."""
    t_s, t_t = temperature, teacher_temperature or temperature

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            p = softmax(teacher[row][entries] / t_t)
            q = softmax(student[row][entries] / t_s)
            losses.append(DIVERGENCE[kind](p, q))
        return (t_s * t_t if squared else 1.0) * average(losses)

    return oracle


def soft_labels(temperature: float = 1.0, squared: bool = True) -> Oracle:
    """T² · mean over rows and labels of the divergence of two coins."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            for c in entries:
                p, q = sigmoid(teacher[row][c] / temperature), sigmoid(student[row][c] / temperature)
                losses.append(kl([p, 1 - p], [q, 1 - q]))
        return (temperature**2 if squared else 1.0) * average(losses)

    return oracle


def logit_mse(temperature: float = 1.0) -> Oracle:
    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = [
            (student[row][c] / temperature - teacher[row][c] / temperature) ** 2
            for row, entries in distributions(student, mask)
            for c in entries
        ]
        return average(losses)

    return oracle


def annealed_logits(share: float) -> Oracle:
    """At the beginning of training, where the teacher's logits have so large a share of their size."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = [
            (student[row][c] - share * teacher[row][c]) ** 2 for row, e in distributions(student, mask) for c in e
        ]
        return average(losses)

    return oracle


def identity(student: Array, teacher: Array, mask: Array | None) -> float:
    return float(student)


def logit_standardized(temperature: float) -> Oracle:
    """Sun et al. 2024, eq. 14, with the standard deviation of the authors' code: over K − 1."""

    def standardized(row: Array) -> Array:
        mean = sum(row) / len(row)
        return (row - mean) / (math.sqrt(sum((row - mean) ** 2) / (len(row) - 1)) + 1e-7)

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, _ in distributions(student, mask):
            p, q = (softmax(standardized(x[row]) / temperature) for x in (teacher, student))
            losses.append(kl(p, q))
        return temperature**2 * average(losses)

    return oracle


def ttm(temperature: float, weighted: bool = False) -> Oracle:
    """Zheng & Yang 2024: KL(p_t^{1/T} / Σ ‖ p_s), where `weighted` times that Σ = Σ_c p_t,c^{1/T}."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            powers = [value ** (1 / temperature) for value in softmax(teacher[row][entries])]
            p = [value / sum(powers) for value in powers]
            losses.append((sum(powers) if weighted else 1.0) * kl(p, softmax(student[row][entries])))
        return average(losses)

    return oracle


def hard_teacher(smoothing: float = 0.0) -> Oracle:
    """Touvron et al. 2021, eq. 3: cross entropy with the class of the teacher's largest logit."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for row, entries in distributions(student, mask):
            best = max(entries, key=lambda c: teacher[row][c])
            target = [(1 - smoothing) * (c == best) + smoothing / len(entries) for c in entries]
            losses.append(ce(target, softmax(student[row][entries])))
        return average(losses)

    return oracle


def pearson(x: list[float], y: list[float]) -> float:
    x_, y_ = ([value - sum(z) / len(z) for value in z] for z in (x, y))
    norms = math.sqrt(sum(value**2 for value in x_)) * math.sqrt(sum(value**2 for value in y_))
    return sum(a * b for a, b in zip(x_, y_, strict=True)) / (norms + 1e-8)


def dist(beta: float, gamma: float, temperature: float) -> Oracle:
    """Huang et al. 2022, eq. 6 to 9: T² times what two correlations lack to one; of one row, classes do not vary."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        rows = [row for row, _ in distributions(student, mask)]
        p, q = ([softmax(x[row] / temperature) for row in rows] for x in (teacher, student))
        within = [1 - pearson(a, b) for a, b in zip(q, p, strict=True)]
        classes = range(student.shape[-1])
        across = [1 - pearson([row[c] for row in q], [row[c] for row in p]) for c in classes]
        return temperature**2 * (beta * average(within) + gamma * (average(across) if len(rows) > 1 else 0.0))

    return oracle
