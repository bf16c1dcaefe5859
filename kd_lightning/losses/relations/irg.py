"""Instance relationship graph: samples, how they relate, and how a layer changes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.core.errors import MatchError
from kd_lightning.core.types import FeatureInfo
from kd_lightning.functional.precision import widen
from kd_lightning.functional.samples import squared_distances
from kd_lightning.losses.relations.base import RelationLoss

SMALLEST = 1e-12
"""The least squared distance, and the least largest one."""

Four = tuple[Tensor, Tensor, Tensor, Tensor]


class IRG(RelationLoss):
    """w_v·mse(z) + w_e/3·Σ mse(D² / max) + w_t·mse(‖F₁ − F₂‖² / max). Liu et al., CVPR 2019, eq. 3 to 9.

    A graph whose vertices are the logits z, whose edges are squared distances D² between samples (of two maps and the
    pooled feature), and whose transformation is how far each sample moves from one stage to the next: of one size by
    pooling, of one width by the mean of neighbouring channels. Four addresses: two maps, the pooled feature, and the
    logits, such as `stages.2`, `stages.3`, `pool`, `logits`. For networks of one family. Weights are KD-Zoo's.

    Args:
        vertices: w_v, of the logits.
        edges: w_e, of the distances.
        transformation: w_t, of the change between the two maps.
        gather: whether the rows of all devices are one batch.

    Raises:
        MatchError: if there are not four addresses, or the second map has other than one or two times the channels of
            the first.

    Example:
        >>> maps = torch.randn(3, 2, 4, 4), torch.randn(3, 4, 2, 2)
        >>> x = (*maps, torch.randn(3, 4), torch.randn(3, 5))
        >>> IRG()(x, x)
        tensor(0.)

    """

    per_address = False
    paired = True

    def __init__(
        self, vertices: float = 0.1, edges: float = 5.0, transformation: float = 5.0, gather: bool = True
    ) -> None:
        super().__init__(gather)
        for name, value in (("vertices", vertices), ("edges", edges), ("transformation", transformation)):
            check_finite_number(name, value, least=0)
        self.vertices, self.edges, self.transformation = vertices, edges, transformation

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...]) -> None:
        """Check that there are four features a side, whose channels can be compared.

        Raises:
            MatchError: if there are not.

        """
        super().bind(student, teacher)
        for side, infos in (("student", student), ("teacher", teacher)):
            if len(infos) != 4:
                raise MatchError(
                    f"IRG needs two maps, a pooled feature and logits of each model, and the {side} has {len(infos)}."
                )
            wanted = (("map",), ("map",), ("vector",), ("classes", "vector"))
            for info, kinds in zip(infos, wanted, strict=True):
                if info.kind not in (None, *kinds):
                    raise MatchError(
                        "IRG needs two maps, a pooled feature and logits, in this order, and the "
                        f"{side}'s '{info.address}' is of kind '{info.kind}'."
                    )
            first, second = infos[0].width, infos[1].width
            if first is not None and second is not None and second not in (first, 2 * first):
                raise MatchError(
                    f"IRG compares the {side}'s first map with its second, which needs as many channels or twice as "
                    f"many, but they have {first} and {second}."
                )

    def forward(self, student: Four, teacher: Four) -> Tensor:
        """Compare two maps (B, C, H, W), a pooled feature (B, D) and logits (B, K) of both models."""
        own, target = [widen(x) for x in student], [widen(x.detach()) for x in teacher]
        if own[3].shape != target[3].shape:
            raise MatchError(
                f"IRG needs logits of one shape but got {tuple(own[3].shape)} and {tuple(target[3].shape)}."
            )
        edges = [mse_loss(_edges(s), _edges(t)) for s, t in zip(own[:3], target[:3], strict=True)]
        moved = mse_loss(_transformation(*own[:2]), _transformation(*target[:2]))
        vertices = mse_loss(own[3], target[3])
        return self.vertices * vertices + self.edges * torch.stack(edges).mean() + self.transformation * moved


def _edges(features: Tensor) -> Tensor:
    distances = squared_distances(features.flatten(1))
    return distances / distances.max().clamp(min=SMALLEST)


def _transformation(first: Tensor, second: Tensor) -> Tensor:
    """Return how far each sample moves from one map to the next, over the farthest, (B,)."""
    first = (
        first if first.shape[2:] == second.shape[2:] else adaptive_avg_pool2d(first, (second.shape[2], second.shape[3]))
    )
    if first.shape[1] < second.shape[1]:
        second = second.unflatten(1, (-1, 2)).mean(2)
    moved = (first - second).square().flatten(1).sum(1)
    return moved / moved.max().clamp(min=SMALLEST)
