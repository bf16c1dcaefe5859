"""Feature maps (B, C, H, W): brought to one size, made from tokens of patches, or taken as rows of pixels."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.precision import widen

Pooling: TypeAlias = Literal["avg", "max"]
"""How a larger map is brought to the size of a smaller one."""

PREFIX_TOKENS = 2
"""How many tokens may come before an image's patches: a class token, and a distillation token after it."""


def same_size(*maps: Tensor, mode: Pooling = "avg") -> list[Tensor]:
    """Return maps of one height and width: the smallest of each, to which larger ones are adaptively pooled.

    Args:
        maps: each (B, C, H, W); channels may differ.
        mode: mean or maximum of what becomes one pixel.

    Returns:
        A map that has the size already, as it is; others in at least float32.

    Example:
        >>> import torch
        >>> small, large = torch.zeros(1, 4, 2, 2), torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> same_size(small, large)[1]
        tensor([[[[ 2.5000,  4.5000],
                  [10.5000, 12.5000]]]])

    """
    pool = adaptive_avg_pool2d if mode == "avg" else adaptive_max_pool2d
    size = min(x.shape[2] for x in maps), min(x.shape[3] for x in maps)
    return [x if tuple(x.shape[2:]) == size else pool(widen(x), size) for x in maps]


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the patches among an image's tokens as a map, without the one or two tokens in front of them.

    Args:
        tokens: (B, L, D), row by row from the upper left corner.
        height: of a map of the same images, which has their proportions.
        width: likewise.

    Returns:
        (B, D, h, w) with L = h · w, h · w + 1 or h · w + 2, and h : w as height : width.

    Raises:
        MatchError: if no such h and w exist.

    Example:
        >>> import torch
        >>> tokens_to_map(torch.arange(5.0).reshape(1, 5, 1), 8, 8)
        tensor([[[[1., 2.],
                  [3., 4.]]]])

    """
    length = tokens.shape[1]
    for prefix in range(min(PREFIX_TOKENS + 1, length)):
        rows = round(math.sqrt((length - prefix) * height / width))
        columns = (length - prefix) // max(rows, 1)
        if rows * columns == length - prefix and rows * width == columns * height and rows:
            return tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    raise MatchError(
        f"{length} tokens cannot become a map with the proportions of {height}×{width}: they are not h·w patches with "
        f"up to {PREFIX_TOKENS} tokens in front. Address a module that gives the patches alone, or a map."
    )


def as_tokens(x: Tensor) -> Tensor:
    """Return the pixels of a map (B, C, H, W) as tokens (B, H·W, C); anything else as it is.

    Example:
        >>> import torch
        >>> as_tokens(torch.zeros(2, 8, 4, 4)).shape, as_tokens(torch.zeros(2, 5, 8)).shape
        (torch.Size([2, 16, 8]), torch.Size([2, 5, 8]))

    """
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
