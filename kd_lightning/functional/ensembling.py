"""One prediction out of several teachers'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kd_lightning.functional.masking import times
from kd_lightning.functional.precision import widen, widen_for


def mean_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of logits (K, B, …, C) over K teachers; weights (K,) or (K, B, …, 1), summing to 1.

    Example:
        >>> mean_logits(torch.tensor([[[0.0, 4.0]], [[2.0, 0.0]]]), torch.tensor([0.5, 0.5]))
        tensor([[1., 2.]])

    """
    return times(_spread(weights, logits).expand_as(logits), widen(logits)).sum(0)


def mean_probabilities(logits: Tensor, weights: Tensor, temperature: float = 1.0, multilabel: bool = False) -> Tensor:
    """Return logits whose softmax at a temperature is the weighted mean of the teachers' softmaxes at it.

    Args:
        logits: (K, B, …, C).
        weights: (K,) or (K, B, …, 1), summing to 1.
        temperature: of the loss that will compare them; above 32 the result is float64, see `widen_for`.
        multilabel: sigmoids, one per label, instead of a softmax.

    Example:
        >>> two = torch.tensor([[[0.0, 0.0]], [[9.0, -9.0]]])
        >>> mean_probabilities(two, torch.tensor([0.5, 0.5])).softmax(-1)
        tensor([[0.7500, 0.2500]])

    """
    scaled, shares = widen_for(temperature, logits) / temperature, _spread(weights, logits).log()
    if multilabel:
        yes, no = (torch.logsumexp(logsigmoid(sign * scaled) + shares, dim=0) for sign in (1, -1))
        return temperature * (yes - no)
    return temperature * torch.logsumexp(torch.log_softmax(scaled, dim=-1) + shares, dim=0)


def confidence(logits: Tensor, multilabel: bool = False) -> Tensor:
    """Return weights (K, B, …, 1) in inverse proportion to each prediction's entropy: who is sure counts more.

    Kwon et al. 2020, "Adaptive Knowledge Distillation Based on Entropy", equation 6.

    Args:
        logits: (K, B, …, C).
        multilabel: entropies of one sigmoid per label, summed, instead of that of a softmax.

    Example:
        >>> confidence(torch.tensor([[[0.0, 0.0]], [[9.0, -9.0]]])).squeeze(-1)[0] < 0.01
        tensor([True])

    """
    wide = widen(logits)
    logs = torch.cat([logsigmoid(wide), logsigmoid(-wide)], -1) if multilabel else torch.log_softmax(wide, dim=-1)
    entropy = -times(logs.exp(), logs).sum(-1, keepdim=True)
    sure = 1 / entropy.clamp(min=1e-6)  # two teachers that are quite sure share evenly
    return sure / sure.sum(0, keepdim=True)


def _spread(weights: Tensor, logits: Tensor) -> Tensor:
    """Give (K,) weights the axes of the logits."""
    return weights if weights.ndim == logits.ndim else weights.view(-1, *[1] * (logits.ndim - 1))
