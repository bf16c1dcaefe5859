"""Hidden states (B, L, D) against hidden states; masked tokens count for nothing.

A (B, D) tensor, such as a pooled output, has one vector per sample: a mask over tokens says nothing about it and is
left aside.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from kd_lightning.functional.masking import blank, masked_mean
from kd_lightning.functional.precision import widen
from kd_lightning.functional.shapes import mask_fits, same_shape
from kd_lightning.functional.squares import squared_distance


def token_mask(hidden: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask where `hidden` has tokens, None where it is (B, D)."""
    return None if hidden.dim() == 2 else mask


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over unmasked tokens and the width of (h_s − h_t)².

    Args:
        student: (B, L, D) or (B, D).
        teacher: the same shape; detached.
        mask: (B, L).

    Example:
        >>> import torch
        >>> hidden_mse(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[1, 0]]))
        tensor(1.)

    """
    mask = _checked("HiddenMSE", student, teacher, mask)
    return masked_mean(squared_distance(student, teacher, mask), mask) / student.shape[-1]


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over unmasked tokens of 1 − cos(h_s, h_t). DistilBERT, Sanh et al. 2019 (1910.01108), section 3.

    Args:
        student: (B, L, D) or (B, D).
        teacher: the same shape; detached.
        mask: (B, L).

    Example:
        >>> import torch
        >>> hidden_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)

    """
    mask = _checked("HiddenCosine", student, teacher, mask)
    # Padding becomes ones, not zeros: at zero the norm has no gradient.
    student, teacher = blank(widen(student), mask, 1.0), blank(widen(teacher.detach()), mask, 1.0)
    return masked_mean(1 - cosine_similarity(student, teacher, dim=-1), mask)


def pkd(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over samples of ‖h_s/‖h_s‖ − h_t/‖h_t‖‖² at each sample's first unmasked token.

    Patient knowledge distillation, Sun et al. 2019 (1908.09355), eq. 7 for one layer.

    Args:
        student: (B, L, D), or (B, D) where the token is already chosen.
        teacher: the same shape, but for L where there is no mask; detached.
        mask: (B, L); a sample without unmasked token counts for nothing.

    Example:
        >>> import torch
        >>> pkd(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(2.)

    """
    if mask is None:  # then only first tokens meet, and lengths may differ, as those of images in two resolutions
        student, teacher = first_token(student, None), first_token(teacher, None)
    mask = _checked("PKD", student, teacher, mask)
    samples = None if mask is None else mask.bool().any(-1)
    student = normalize(blank(widen(first_token(student, mask)), samples, 1.0), dim=-1)
    teacher = normalize(blank(widen(first_token(teacher.detach(), mask)), samples, 1.0), dim=-1)
    return masked_mean((student - teacher).square().sum(-1), samples)


def first_token(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return (B, D): each sample's first unmasked token (position 0 without a mask) of (B, L, D); (B, D) stays.

    Example:
        >>> import torch
        >>> first_token(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[0, 1, 1]]))
        tensor([[2.]])

    """
    if hidden.dim() == 2:
        return hidden
    if mask is None:
        return hidden[:, 0]
    index = mask.bool().int().argmax(-1).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def _checked(loss: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor | None:
    """Check the shapes and return the mask that applies."""
    same_shape(loss, student, teacher, axis=-1, fix="their widths differ, add projection='linear'")
    mask = token_mask(student, mask)
    mask_fits(loss, mask, student)
    return mask
