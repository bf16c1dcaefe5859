"""Distillation through an orthogonal projection, for students of another kind than their teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import layer_norm, smooth_l1_loss

from kd_lightning.core.types import Kind
from kd_lightning.functional.masking import count
from kd_lightning.functional.precision import widen
from kd_lightning.functional.shapes import same_features
from kd_lightning.losses.base import OneFeatureLoss
from kd_lightning.losses.options import check_positive

_POOLED = "address a pooled feature"


class VkD(OneFeatureLoss):
    """Smooth L1 of the student's projected vector and the teacher's, layer-normalised. Miles et al. 2024 (2403.06213).

    With `projection="orthogonal"`, whose rows or columns stay orthonormal: the projection can change no distances, so
    that the features themselves must learn. For vision transformers taught by convolutional networks, on pooled
    features: of the student the mean over patches, of the teacher `pool`. Only the teacher's is normalised.

    Args:
        eps: added to the variance.

    Raises:
        MatchError: if features are no vectors of one width.

    Example:
        >>> import torch
        >>> float(VkD()(torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 1.0]]))) < 1e-9
        True

    """

    equal_widths = True
    widens = True
    refuses: ClassVar[Mapping[Kind, str]] = dict.fromkeys(("map", "tokens", "attention", "heads"), _POOLED)

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        check_positive("eps", eps)
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare vectors (B, D)."""
        same_features("VkD", student, teacher)
        target = layer_norm(widen(teacher.detach()), teacher.shape[-1:], eps=self.eps)
        return smooth_l1_loss(widen(student), target)

    def count(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the number of samples."""
        return count(student, None, student.shape[:1])
