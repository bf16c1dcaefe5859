"""How the samples of a batch relate to one another: distances, angles and similarities of their features, (B, B).

The two models meet only in these relations, so their widths may differ. Features are rows: maps are flattened.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.chunks import CHUNK, chunked_mean
from kd_lightning.functional.precision import matmul, self_products, widen
from kd_lightning.functional.shapes import one_feature
from kd_lightning.functional.unit import unit

SHORTEST = 1e-6
"""The share of the usual distance below which two samples have no direction from one to the other."""

PKT_EPS = 1e-7


def rkd_distance(student: Tensor, teacher: Tensor, shortest: float = 0.0) -> Tensor:
    """Mean over all pairs of the smooth L1 of d_s − d_t, d the distances over their mean. 1904.05068, eq. 4 and 5.

    Args:
        student: (B, …).
        teacher: (B, …) of any width; detached.
        shortest: the least distance between different samples.

    Returns:
        A scalar; zero, attached to the graph, of a single sample.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> rkd_distance(x, 10 * x + 1)
        tensor(0.)

    """
    own, target = rows_of("RKDDistance", student, teacher)
    return smooth_l1_loss(_relative(own, shortest), _relative(target, shortest))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all triplets of the smooth L1 of cos_s − cos_t, the cosine at the vertex. 1904.05068, eq. 6 and 7.

    Triplets with equal samples count, and have a cosine of 0 or 1 in both; a direction shorter than 1e-6 of the usual
    distance is none, so that (nearly) equal samples have no gradient of 10¹⁰. Of many samples a few vertices at a time.

    Args:
        student: (B, …).
        teacher: (B, …) of any width; detached.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        >>> float(rkd_angle(x, 10 * x + 1)) < 1e-9
        True

    """
    own, target = rows_of("RKDAngle", student, teacher)
    values = partial(_angle_values, own, target, _shortest(own), _shortest(target))
    batch, vertices = len(own), torch.arange(len(own), device=own.device)
    entries = batch**2 * max(batch, own.shape[1])
    if 0 < entries <= CHUNK:
        return values(vertices, reduction="mean")
    return chunked_mean(values, [vertices], None, entries)


def similarity_preserving(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    """Return ‖Ĝ_s − Ĝ_t‖² / B², Ĝ the rows of G = F Fᵀ over their p-norms. 1907.09682, eq. 4.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> float(similarity_preserving(x, 2 * x)) < 1e-9
        True

    """
    own, target = (normalize(matmul(x, x.T), p, dim=1) for x in rows_of("SimilarityPreserving", student, teacher))
    return (own - target).square().mean()


def pkt(student: Tensor, teacher: Tensor, eps: float = PKT_EPS, added: float | None = None) -> Tensor:
    """Mean over B² of p_t log((p_t + ε) / (p_s + ε)), p the rows of (cos + 1) / 2, each summing to one. ECCV 2018.

    Passalis & Tefas 2018, eq. 7 and 9, with the diagonal as of the authors' code.

    Args:
        student: (B, …).
        teacher: (B, …) of any width; detached.
        eps: ε.
        added: to the lengths of rows; None: a floor.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> abs(float(pkt(x, 2 * x))) < 1e-7
        True

    """
    p_s, p_t = (_shares(x, added) for x in rows_of("PKT", student, teacher))
    return (p_t * ((p_t + eps) / (p_s + eps)).log()).mean()


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Mean over B² of (K_s − K_t)², K = Σ_p e^{−2γ} (2γ)^p / p! ⟨x_i, x_j⟩^p of unit rows. 1904.01802, eq. 6.

    K is the Taylor series of the Gaussian kernel e^{−γ‖x_i − x_j‖²} of unit rows.

    Args:
        student: (B, …).
        teacher: (B, …) of any width; detached.
        gamma: γ.
        order: of the series.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> float(correlation_congruence(x, 2 * x)) < 1e-9
        True

    """
    own, target = (unit(x) for x in rows_of("CorrelationCongruence", student, teacher))
    return (gaussian(own, gamma, order) - gaussian(target, gamma, order)).square().mean()


def gaussian(rows: Tensor, gamma: float, order: int) -> Tensor:
    """Return (B, B): Σ_p e^{−2γ} (2γ)^p / p! ⟨x_i, x_j⟩^p up to an order; of unit rows nearly e^{−γ‖x_i − x_j‖²}.

    Example:
        >>> import torch
        >>> gaussian(torch.eye(2), gamma=0.5, order=9).round(decimals=4)
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])

    """
    products, series = matmul(rows, rows.T), rows.new_zeros(len(rows), len(rows))
    for p in range(order + 1):
        series = series + math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * products**p
    return series


def squared_distances(rows: Tensor) -> Tensor:
    """Return (B, B) squared distances of rows; the batch's mean is taken off first, else a common offset costs digits.

    Example:
        >>> import torch
        >>> squared_distances(torch.tensor([[100.0], [103.0]]))
        tensor([[0., 9.],
                [9., 0.]])

    """
    centred = rows - rows.mean(0)
    products = matmul(centred, centred.T)
    norms = products.diagonal()
    return (norms[:, None] + norms - 2 * products).clamp(min=0).fill_diagonal_(0.0)


def rows_of(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides as rows (B, D) in at least float32, the teacher's detached.

    Raises:
        MatchError: if they do not have the same number of samples, or are scalars.

    """
    one_feature(loss, student, teacher)
    if min(student.dim(), teacher.dim()) < 2 or len(student) != len(teacher):
        raise MatchError(
            f"{loss} relates the samples of a batch, but got {tuple(student.shape)} from the student and "
            f"{tuple(teacher.shape)} from the teacher: both must have one feature for each of the same samples."
        )
    return widen(student).flatten(1), widen(teacher.detach()).flatten(1)


def _relative(rows: Tensor, shortest: float) -> Tensor:
    """Return (B, B) distances over the mean of those of different samples."""
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    if shortest:
        distances = distances.clamp(min=shortest) * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    pairs = len(rows) * (len(rows) - 1)
    return distances / (distances.sum() / max(pairs, 1)).clamp(min=torch.finfo(rows.dtype).tiny)


def _shortest(rows: Tensor) -> Tensor:
    """Return the length below which a difference of two rows is no direction."""
    centred = rows.detach() - rows.detach().mean(0)
    return SHORTEST * (2 * centred.square().sum(1).mean()).sqrt()


def _angle_values(
    student: Tensor, teacher: Tensor, short_s: Tensor, short_t: Tensor, vertices: Tensor, reduction: str = "none"
) -> Tensor:
    own, target = _cosines(student, vertices, short_s), _cosines(teacher, vertices, short_t)
    return smooth_l1_loss(own, target, reduction=reduction)


def _cosines(rows: Tensor, vertices: Tensor, shortest: Tensor) -> Tensor:
    """Return (n, B, B): at each of n vertices the cosine between the directions to every two rows."""
    differences = rows[None] - rows[vertices][:, None]
    lengths = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    is_long = lengths > shortest
    return self_products(differences / torch.where(is_long, lengths, torch.inf))


def _shares(rows: Tensor, added: float | None) -> Tensor:
    directions = unit(rows, eps=added)
    similarity = (matmul(directions, directions.T) + 1).clamp(min=0) / 2  # cosines are −1.0000001 at times
    return similarity / similarity.sum(1, keepdim=True)
