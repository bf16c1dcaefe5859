"""From features of tokens to features of words, so that two tokenizers' tokens can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.functional.precision import matmul, widen


def mean_by_word(x: Tensor, word_ids: Tensor, words: int) -> Tensor:
    """Return the mean of each word's tokens; zeros for a word that has none.

    Args:
        x: (B, L, D).
        word_ids: (B, L), the number of each token's word, or −1; what such tokens hold has no influence.
        words: how many words to return, W; higher numbers are left out.

    Returns:
        (B, W, D), in at least float32.

    Example:
        >>> mean_by_word(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[0, 0, -1]]), words=2).tolist()
        [[[2.0], [0.0]]]

    """
    member = membership(word_ids, words)
    share = member / member.sum(-1, keepdim=True).clamp(min=1)
    x = widen(x).masked_fill((word_ids < 0)[..., None], 0.0)
    return matmul(share.to(x.dtype), x)  # a product adds in a fixed order


def has_word(word_ids: Tensor, words: int) -> Tensor:
    """Return which words have a token: (B, W), true or false.

    Example:
        >>> has_word(torch.tensor([[0, 0, -1]]), words=2).tolist()
        [[True, False]]

    """
    return membership(word_ids, words).any(-1)


def membership(word_ids: Tensor, words: int) -> Tensor:
    """Return which token is part of which word: (B, W, L), true or false."""
    return word_ids[:, None, :] == torch.arange(words, device=word_ids.device)[None, :, None]
