"""Which units of a wide model a narrower one keeps, so that weights cut by it still belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

_Units: TypeAlias = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class Kept:
    """Indices of the units kept, by (wide size, narrow size): of the width, and of the feed-forward layers.

    Sizes alone may not tell the two apart (3 · 768 = 2 · 1152), so attention asks for those of the width first.
    """

    width: _Units
    feed_forward: _Units

    def of(self, size: int, smaller: int, attention: bool) -> Tensor | None:
        """Return the units kept of an axis, or None if there is no rule for it."""
        at = (size, smaller)
        exact = min(self.width, default=None) == at  # the width itself, and no fused multiple of it
        first, second = (self.width, self.feed_forward) if attention or exact else (self.feed_forward, self.width)
        return first.get(at, second.get(at))


_FUSED = (1, 2, 3)  # one matrix alone, a gate beside its values, query beside key and value


def kept_units(teacher: nn.Module, student: nn.Module) -> Kept:
    """Return the teacher's units that its student keeps, for every size in which they may differ.

    Units are spread evenly (Xu et al. 2024, "Initializing Models with Larger Ones", uniform selection), and alike
    everywhere, for layers speak to each other through the same units. Within a width, whole heads are chosen first
    and units of each head then, so that no head of the student mixes several of the teacher's; evenly spread units
    also keep the pairs and, nearly, the frequencies of rotary positions.

    Args:
        teacher: a Transformers model; anything else has no known sizes, and nothing can be cut.
        student: one of the same family, no wider than the teacher.

    Returns:
        For width and feed-forward size, and their multiples where matrices are fused, the indices kept.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> wide, narrow = (BertModel(BertConfig(vocab_size=9, hidden_size=width, num_attention_heads=2,
        ...                 intermediate_size=4 * width, num_hidden_layers=1)) for width in (8, 4))
        >>> kept_units(wide, narrow).width[8, 4]
        tensor([0, 2, 4, 6])

    """
    wide, narrow = _sizes(teacher), _sizes(student)
    if wide is None or narrow is None:
        return Kept({}, {})
    width = (wide["hidden_size"], narrow["hidden_size"])
    inner = (wide["intermediate_size"], narrow["intermediate_size"])
    return Kept(_blocks(*width, _by_head(wide, narrow)), _blocks(*inner, _even(*inner)))


def _blocks(size: int, smaller: int, units: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return the units kept of one matrix, and of several that are fused into one."""
    if smaller >= size:
        return {}
    fused = {times: (torch.arange(times)[:, None] * size + units[None]).flatten() for times in _FUSED}
    return {(times * size, times * smaller): kept for times, kept in fused.items()}


def narrowed(
    tensor: Tensor, shape: torch.Size, kept: Kept, attention: bool = False, table: bool = False
) -> Tensor | None:
    """Return a tensor cut to a shape, or None if some axis cannot be cut so.

    Args:
        tensor: the teacher's.
        shape: the student's.
        kept: the units that both agree on.
        attention: whether it belongs to an attention layer.
        table: whether its rows are words or positions, and no units.

    """
    if tensor.dim() != len(shape):
        return None
    for axis, (size, smaller) in enumerate(zip(tensor.shape, shape, strict=True)):
        if size != smaller:
            units = kept.of(size, smaller, attention)
            if units is None or (table and axis == 0):
                return None
            tensor = tensor.index_select(axis, units.to(tensor.device))
    return tensor


def _sizes(model: nn.Module) -> dict[str, int] | None:
    config: Any = getattr(getattr(model, "_orig_mod", model), "config", None)
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    feed_forward = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)
    if not (hidden and heads and feed_forward):
        return None
    return {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": feed_forward}


def _by_head(wide: dict[str, int], narrow: dict[str, int]) -> Tensor:
    """Return the kept units of the width: evenly spread heads, evenly spread units of each."""
    heads, fewer = wide["num_attention_heads"], narrow["num_attention_heads"]
    size, smaller = wide["hidden_size"] // heads, narrow["hidden_size"] // fewer
    if fewer > heads or smaller > size:  # heads of the student are larger: they must mix some of the teacher's
        return _even(wide["hidden_size"], narrow["hidden_size"])
    return (_even(heads, fewer)[:, None] * size + _even(size, smaller)[None]).flatten()


def _even(size: int, smaller: int) -> Tensor:
    return torch.arange(smaller) * size // max(smaller, 1)
