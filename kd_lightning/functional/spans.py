"""The best answers in rows of start and end logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kd_lightning.functional.precision import widen


def best_spans(
    start_logits: Tensor, end_logits: Tensor, mask: Tensor, n: int = 20, max_length: int = 30
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the n spans of each row whose start and end logits have the largest sum, best first.

    A span starts no later than it ends, at places the mask allows, and is no longer than `max_length` positions; what
    lies between start and end does not count. Devlin et al. 2019, section 4.2, restricted as their code does.

    Args:
        start_logits: (B, L).
        end_logits: (B, L).
        mask: (B, L), true where an answer may start or end.
        n: how many.
        max_length: positions of the longest span.

    Returns:
        Starts, ends and sums, (B, n) each. Where a row has fewer spans, sums are −inf, starts and ends 0.

    Example:
        >>> start, end = torch.tensor([[9.0, 3.0, 1.0]]), torch.tensor([[0.0, 2.0, 4.0]])
        >>> best_spans(start, end, torch.tensor([[False, True, True]]), n=2)
        (tensor([[1, 1]]), tensor([[2, 1]]), tensor([[7., 5.]]))

    """
    start, end = (widen(logits).masked_fill(~mask.bool(), -torch.inf) for logits in (start_logits, end_logits))
    reach = min(max_length, start.shape[1])
    ends = pad(end, (0, reach - 1), value=-torch.inf).unfold(1, reach, 1)  # (B, L, reach): those a start may have
    sums = (start[:, :, None] + ends).flatten(1)
    scores, places = sums.topk(min(n, sums.shape[1]), dim=1)
    places = places.masked_fill(scores == -torch.inf, 0)
    starts = places // reach
    found = starts, starts + places % reach, scores
    fills = 0, 0, -torch.inf
    one, two, three = (pad(t, (0, n - t.shape[1]), value=fill) for t, fill in zip(found, fills, strict=True))
    return one, two, three
