"""Losses on similarity matrices of a batch."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.functional.samples import correlation_congruence, pkt, similarity_preserving
from kd_lightning.losses.options import check_count, check_positive
from kd_lightning.losses.relations.base import RelationLoss


class SimilarityPreserving(RelationLoss):
    """‖Ĝ_s − Ĝ_t‖² / B², Ĝ the unit rows of the Gram matrix F Fᵀ of the batch. SP, Tung & Mori 2019 (1907.09682).

    What is similar for the teacher shall be so for the student, whatever the two widths: no projection. Of maps, which
    are flattened, or vectors. The usual weight is 3000, of the last stage or the mean over three.

    Args:
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if features are tokens or attention.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> float(SimilarityPreserving()(x, 2 * x)) < 1e-9
        True

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return similarity_preserving(student, teacher)


class PKT(RelationLoss):
    """Mean over B² of p_t log((p_t + ε) / (p_s + ε)), p the rows of cosines as probabilities. Passalis & Tefas 2018.

    Probabilistic knowledge transfer (ECCV 2018): each sample's similarities to the others, (cos + 1) / 2 over their
    sum, with ε = 1e-7. On pooled features. The paper sums over pairs of different samples; this is the mean with the
    diagonal, as in the authors' code, and the usual weights are 10⁴ to 3·10⁴.

    Args:
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if features are tokens or attention.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> abs(float(PKT()(x, 2 * x))) < 1e-7
        True

    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return pkt(student, teacher)


class CorrelationCongruence(RelationLoss):
    """Mean over B² of (K_s − K_t)², K a Gaussian kernel's Taylor series of unit rows. CC, Peng et al. 2019.

    1904.01802, eq. 6: K = Σ_{p≤2} e^{−2γ} (2γ)^p / p! · ⟨x_i, x_j⟩^p. On pooled features. The usual weight is 100. What
    RepDistiller calls CC is another formula (`kd.compat.repdistiller.CorrelationCongruence`).

    Args:
        gamma: γ.
        order: of the series.
        gather: whether the rows of all devices are one batch.

    Raises:
        ConfigError: if `gamma` is not positive.
        MatchError: if features are tokens or attention.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3)
        >>> float(CorrelationCongruence()(x, 2 * x)) < 1e-9
        True

    """

    def __init__(self, gamma: float = 0.4, order: int = 2, gather: bool = True) -> None:
        super().__init__(gather)
        check_positive("gamma", gamma)
        check_count("order", order)
        self.gamma, self.order = gamma, order

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (B, D_s) and (B, D_t), or maps."""
        return correlation_congruence(student, teacher, self.gamma, self.order)
