"""The largest logits of each row, and how much probability is left for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kd_lightning.functional.precision import widen


@dataclass(frozen=True)
class TopK:
    """Keeps k of C logits with their places, and the log of the summed exponentials of the rest.

    Unpacked, the rest share that mass evenly: at temperature 1 the k largest have their exact probabilities, and all
    others together have theirs. At another temperature the evenly shared rest is an approximation.

    Args:
        k: how many logits are kept.
        classes: C.

    Example:
        >>> import torch
        >>> top = TopK(k=1, classes=3)
        >>> z = torch.tensor([[2.0, 0.0, 0.0]])
        >>> torch.equal(top.unpack(top.pack(z)).softmax(-1), z.softmax(-1))
        True

    """

    k: int
    classes: int

    def pack(self, logits: Tensor) -> dict[str, Tensor]:
        """Return `values` and `indices` (…, k) and the `rest` (…) of logits (…, C)."""
        values, indices = widen(logits).topk(self.k, dim=-1)
        rest = widen(logits).scatter(-1, indices, float("-inf")).logsumexp(-1)
        return {"values": values, "indices": indices.int(), "rest": rest.float()}

    def unpack(self, parts: dict[str, Tensor]) -> Tensor:
        """Return logits (…, C), float32."""
        each = parts["rest"] - math.log(self.classes - self.k)
        logits = each.unsqueeze(-1).expand(*each.shape, self.classes)
        return logits.scatter(-1, parts["indices"].long(), parts["values"].float())
