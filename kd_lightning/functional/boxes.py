"""Boxes: centres and corners, and how much two of them overlap (IoU, GIoU), element by element or all with all."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.functional.precision import widen


def to_corners(boxes: Tensor) -> Tensor:
    """Return boxes (…, 4) of centre, width and height as the left, upper, right and lower edge.

    Example:
        >>> to_corners(torch.tensor([0.5, 0.5, 0.5, 0.25]))
        tensor([0.2500, 0.3750, 0.7500, 0.6250])

    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def to_centres(corners: Tensor) -> Tensor:
    """Return boxes (…, 4) of four edges as centre, width and height, the inverse of `to_corners`.

    Example:
        >>> to_centres(torch.tensor([0.25, 0.375, 0.75, 0.625]))
        tensor([0.5000, 0.5000, 0.5000, 0.2500])

    """
    first, last = corners[..., :2], corners[..., 2:]
    return torch.cat([(first + last) / 2, last - first], -1)


def area(corners: Tensor) -> Tensor:
    """Return the area of boxes (…, 4) of four edges, (…,); of one whose edges are in the wrong order it is 0."""
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Return intersection over union of boxes of four edges.

    Args:
        one: (…, 4).
        other: of a shape that broadcasts with it; all with all: `iou(a[:, None], b)`.

    Returns:
        (…,), in [0, 1], at least float32; 0 for two boxes without area.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]])
        >>> iou(boxes[:, None], boxes)
        tensor([[1.0000, 0.3333],
                [0.3333, 1.0000]])

    """
    one, other = widen(one), widen(other)
    shared, union = _overlap(one, other)
    return _ratio(shared, union)


def generalized_iou(one: Tensor, other: Tensor) -> Tensor:
    """Return IoU less the share of the smallest box around both that neither covers, Rezatofighi et al. 2019, eq. 4.

    Unlike IoU it has a gradient for boxes that do not touch.

    Args:
        one: (…, 4), four edges each.
        other: of a shape that broadcasts with it.

    Returns:
        (…,), in [-1, 1], at least float32.

    Example:
        >>> generalized_iou(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([2.0, 0.0, 3.0, 1.0]))
        tensor(-0.3333)

    """
    one, other = widen(one), widen(other)
    shared, union = _overlap(one, other)
    first = torch.minimum(one[..., :2], other[..., :2])
    around = area(torch.cat([first, torch.maximum(one[..., 2:], other[..., 2:])], -1))
    return _ratio(shared, union) - _ratio(around - union, around)


def _overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the area that boxes share, and that of both together."""
    first = torch.maximum(one[..., :2], other[..., :2])
    shared = area(torch.cat([first, torch.minimum(one[..., 2:], other[..., 2:])], -1))
    return shared, area(one) + area(other) - shared


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide areas; 0 where the whole is 0, with a gradient of 0 and not NaN."""
    empty = whole <= 0
    return part / whole.masked_fill(empty, 1.0) * ~empty
