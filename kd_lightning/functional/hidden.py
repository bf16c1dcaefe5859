"""Hidden states (B, L, D) against hidden states, and how two layers relate; masked tokens count for nothing.

A (B, D) tensor, such as a pooled output, has one vector per sample: a mask over tokens has no meaning for it and
is not used. Of a feature map (B, C, H, W) the pixels are the tokens, and the channels the width.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.chunks import chunked, chunked_mean
from kd_lightning.functional.maps import as_tokens
from kd_lightning.functional.masking import blank, masked_mean
from kd_lightning.functional.precision import matmul, widen
from kd_lightning.functional.shapes import SAME_TOKENS, layer_pair, mask_fits, one_feature, same_features, same_shape
from kd_lightning.functional.squares import squared_distance, token_gram_distance

LayerPair: TypeAlias = tuple[Tensor, Tensor]
"""Hidden states of two layers of one model, each (B, L, D), or maps (B, C, H, W)."""


def token_mask(hidden: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask where `hidden` has tokens, None where it is (B, D)."""
    return None if hidden.dim() == 2 else mask


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over unmasked tokens and the width of (h_s − h_t)²; of maps, over everything: FitNets' loss (1412.6550).

    Args:
        student: (B, L, D), (B, D), or (B, C, H, W).
        teacher: the same shape; detached.
        mask: (B, L).

    Example:
        >>> import torch
        >>> hidden_mse(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[1, 0]]))
        tensor(1.)

    """
    mask = _checked("HiddenMSE", student, teacher, mask)
    if student.dim() == 4:  # one row per sample, so that nothing is transposed
        student, teacher = student.flatten(1), teacher.flatten(1)
    return masked_mean(squared_distance(student, teacher, mask), mask) / student.shape[-1]


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over unmasked tokens of 1 − cos(h_s, h_t). DistilBERT, Sanh et al. 2019 (1910.01108), section 3.

    Args:
        student: (B, L, D), (B, D), or (B, C, H, W), whose pixels are compared as tokens are.
        teacher: the same shape; detached.
        mask: (B, L).

    Example:
        >>> import torch
        >>> hidden_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(1.)

    """
    mask = _checked("HiddenCosine", student, teacher, mask)
    student, teacher = as_tokens(student), as_tokens(teacher)
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
    one_feature("PKD", student, teacher)
    for x in (student, teacher):
        if x.dim() not in (2, 3):
            raise MatchError(
                f"PKD compares first tokens of (B, L, D), or vectors (B, D), and {tuple(x.shape)} has none: use "
                "HiddenCosine for feature maps, or PKD on pooled features."
            )
    if mask is None:  # then only first tokens are compared, and lengths may differ, as of images in two resolutions
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
    same_features(loss, student, teacher)
    mask = token_mask(student, mask)
    mask_fits(loss, mask, student)
    return mask


def fsp(student: LayerPair, teacher: LayerPair, mask: Tensor | None = None) -> Tensor:
    """Mean over samples and D×D′ of (G_s − G_t)², with G = Σ_l a_l b_lᵀ / len the flow from layer a to layer b.

    Yim et al., CVPR 2017, eq. 1 and 2: of maps as there, over pixels; of hidden states over tokens.

    Args:
        student: two layers, (B, L, D) and (B, L, D′); or maps (B, C, H, W) and (B, C′, H, W).
        teacher: two layers of the same shapes; detached.
        mask: (B, L); a sample without unmasked token counts for nothing.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 2, 3)
        >>> fsp((one, one), (one, 0 * one))
        tensor(1.)

    """
    student, teacher = flow_pairs(student, teacher)
    mask_fits("FSP", mask, *student)
    samples = None if mask is None else mask.bool().any(-1)
    entries = student[0].shape[0] * student[0].shape[-1] * student[1].shape[-1]
    return chunked_mean(_channel_squares, (*student, *(x.detach() for x in teacher), mask), samples, entries)


def flow_pairs(student: LayerPair, teacher: LayerPair) -> tuple[LayerPair, LayerPair]:
    """Return both sides' pairs of layers as tokens (B, L, D) and (B, L, D′), checked for `FSP`.

    Raises:
        MatchError: if a side is no pair of layers, or widths or lengths differ.

    """
    layer_pair("FSP", student, teacher)
    for s, t in zip(student, teacher, strict=True):
        same_features("FSP", s, t)
    return _pair_of_tokens(student), _pair_of_tokens(teacher)


def nst(
    student: LayerPair,
    teacher: LayerPair,
    mask: Tensor | None = None,
    divide_by: Literal["width", "length"] = "width",
) -> Tensor:
    """Mean over pairs of unmasked tokens of (a_s b_sᵀ/D_s − a_t b_tᵀ/D_t)².

    The token-Gram form that toolkits call NST or MMD; the MMD of Huang & Wang 2017 (1707.01219) is another loss.

    Args:
        student: two layers, each (B, L, D_s); or maps (B, C_s, H, W), whose pixels are the tokens.
        teacher: two layers, each (B, L, D_t); detached. D_t may differ from D_s.
        mask: (B, L).
        divide_by: "length" divides both products by L, padding included, instead of D_s and D_t.

    Example:
        >>> import torch
        >>> one, wide = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
        >>> nst((one, one), (wide, wide))
        tensor(0.)

    """
    layer_pair("NST", student, teacher, equal_widths=True)
    student, teacher = _pair_of_tokens(student), _pair_of_tokens(teacher)
    for s, t in zip(student, teacher, strict=True):
        same_shape("NST", s[..., 0], t[..., 0], axis=-1, fix=SAME_TOKENS)
    mask_fits("NST", mask, *student)
    axis = 2 if divide_by == "width" else 1
    entries = 2 * student[0].shape[0] * student[0].shape[1] ** 2  # two products live side by side
    # a pair of layers is mostly one layer with itself: then its product is computed from one tensor
    layers = [x for first, second in (student, teacher) for x in (first, None if second is first else second)]
    sums = chunked(partial(token_gram_distance, axis=axis), (*layers, mask), entries)
    batch, length, _ = student[0].shape
    return sums.sum() / (batch * length**2 if mask is None else mask.bool().sum(-1).square().sum().clamp(min=1))


def cosine_relation(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over samples and pairs of unmasked tokens of (cos_s − cos_t)², cosines between tokens of one layer.

    The hidden-state relation of MiniViT, Zhang et al. 2022 (2204.07154), eq. 10.

    Args:
        student: (B, L, D_s), or maps (B, C_s, H, W), whose pixels are the tokens.
        teacher: the same of another width; detached.
        mask: (B, L).

    Example:
        >>> import torch
        >>> x = torch.randn(1, 3, 4)
        >>> float(cosine_relation(x, 2 * x)) < 1e-9
        True

    """
    one_feature("CosineRelation", student, teacher)
    own, target = as_tokens(student), as_tokens(teacher.detach())
    same_shape("CosineRelation", own[..., 0], target[..., 0], axis=-1, fix=SAME_TOKENS)
    mask_fits("CosineRelation", mask, own)
    # Padding becomes ones, not zeros: at zero the norm has no gradient. The root undoes the division by the width.
    units = [normalize(blank(widen(x), mask, 1.0), dim=-1) * x.shape[-1] ** 0.5 for x in (own, target)]
    sums = chunked(token_gram_distance, (units[0], None, units[1], None, mask), 2 * own.shape[0] * own.shape[1] ** 2)
    pairs = own.shape[0] * own.shape[1] ** 2 if mask is None else mask.bool().sum(-1).square().sum().clamp(min=1)
    return sums.sum() / pairs


def _pair_of_tokens(pair: LayerPair) -> LayerPair:
    first, second = pair
    tokens = as_tokens(first)
    return tokens, tokens if second is first else as_tokens(second)


def _channel_squares(a_s: Tensor, b_s: Tensor, a_t: Tensor, b_t: Tensor, mask: Tensor | None) -> Tensor:
    return (flow((a_s, b_s), mask) - flow((a_t, b_t), mask)).square()


def flow(pair: LayerPair, mask: Tensor | None = None) -> Tensor:
    """Return (B, D, D′): Σ_l a_l b_lᵀ over unmasked tokens of two layers, divided by their number.

    Example:
        >>> import torch
        >>> flow((torch.ones(1, 2, 1), torch.full((1, 2, 1), 3.0)))
        tensor([[[3.]]])

    """
    a, b = (blank(widen(layer), mask) for layer in pair)
    gram = matmul(a.transpose(1, 2), b)
    if mask is None:
        return gram / a.shape[1]
    return gram / mask.bool().sum(-1).clamp(min=1).reshape(-1, 1, 1)
