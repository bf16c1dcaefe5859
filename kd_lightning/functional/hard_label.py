"""A student's logits against the batch's labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kd_lightning.core.errors import MatchError
from kd_lightning.functional.logits import check_logits_mask, entries, mean_over_logits
from kd_lightning.functional.masking import blank, cross_entropy, masked_log_softmax, masked_mean, times
from kd_lightning.functional.precision import widen

IGNORED = -100
"""The label that counts for nothing, PyTorch's and Hugging Face's convention."""


def hard_label(logits: Tensor, labels: Tensor, mask: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy over the labels that count (see `counted_labels`).

    Args:
        logits: (B, C), (B, L, C), or (B, L) over positions.
        labels: integers, the logits' shape without the last axis; or probabilities of the classes (mixup), the logits'
            shape.
        mask: (B, L). For (B, L, C) logits: which tokens count. For (B, L) logits: which positions are in the softmax.
        label_smoothing: share of the target that is spread evenly over all classes (positions in the softmax).

    Returns:
        A scalar.

    Raises:
        MatchError: if labels or mask do not have the shapes above.

    Example:
        >>> import torch
        >>> hard_label(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor(1.3863)

    """
    keep = counted_labels(logits, labels, mask)
    if labels.is_floating_point() and not _are_probabilities(labels, logits):
        raise MatchError(
            "HardLabel takes class numbers, or probabilities that sum to one, but got other floats: use LabelMSE, or "
            "HardLabels for 0 and 1."
        )
    inside = entries(logits, mask)
    try:
        return mean_over_logits(_cross_entropy, logits, (logits, labels, keep, inside, label_smoothing), keep)
    except RuntimeError:
        if labels.device.type == "cpu" and labels.shape != logits.shape:
            explain_range("HardLabel", labels, keep, logits.shape[-1])
        raise


def explain_range(loss: str, labels: Tensor, keep: Tensor, classes: int) -> None:
    """Name the first label that is no class; looked for only once PyTorch has failed, so that no step waits for it."""
    wrong = (keep & ((labels < 0) | (labels >= classes))).nonzero()
    if len(wrong):
        row, *token = wrong[0].tolist()
        where = f"row {row}" + "".join(f", token {k}" for k in token)
        raise MatchError(
            f"{loss} got the label {labels[tuple(wrong[0])].item()} in {where}, but the logits have {classes} "
            f"classes, 0 to {classes - 1}. {IGNORED} is the label that is ignored."
        ) from None


def _are_probabilities(labels: Tensor, logits: Tensor) -> bool:
    """Tell whether labels are probabilities of classes; on a GPU, where looking would wait for it, by their shape."""
    if labels.shape != logits.shape:
        return False
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    probable = ((labels.sum(-1) - 1).abs() < 1e-3) & (labels >= 0).all(-1)
    return bool((probable | (labels[..., 0] == IGNORED)).all())


def hard_labels(logits: Tensor, labels: Tensor, mask: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean binary cross entropy over the labels that count.

    Args:
        logits: (B, C) or (B, L, C).
        labels: 0, 1 or a probability each, the logits' shape; −100 is ignored.
        mask: the logits' shape, or without the last axis.
        label_smoothing: moves every target towards ½ by this share.

    Example:
        >>> import torch
        >>> hard_labels(torch.zeros(1, 2), torch.tensor([[1, -100]]))
        tensor(0.6931)

    """
    keep = counted_labels(logits, labels, mask, several=True)
    return mean_over_logits(_binary_cross_entropy, logits, (logits, labels, keep, label_smoothing), keep)


def label_mse(values: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over the labels that count: those that are not −100 and not masked.

    Args:
        values: (B, 1), or (B, L, 1), one value each.
        labels: numbers, the values' shape without the last axis.
        mask: (B, L), which tokens count.

    Raises:
        MatchError: if labels or mask do not have the shapes above.

    Example:
        >>> import torch
        >>> label_mse(torch.tensor([[2.0], [5.0]]), torch.tensor([4.0, -100.0]))
        tensor(4.)

    """
    if values.shape[-1] != 1 or labels.shape != values.shape[:-1]:
        raise MatchError(
            f"LabelMSE takes one value and one label per row, but got outputs of shape {tuple(values.shape)} and "
            f"labels of shape {tuple(labels.shape)}."
        )
    keep = counted_labels(values, labels, mask)
    errors = blank(widen(values).squeeze(-1), keep) - blank(widen(labels.detach()), keep)
    return masked_mean(errors.square(), keep)


def counted_labels(logits: Tensor, labels: Tensor, mask: Tensor | None = None, several: bool = False) -> Tensor:
    """Return which labels count, with the labels' shape.

    Those that are not −100 and not masked. With (B, L) logits over positions and a mask of that shape: those that name
    an unmasked position inside [0, L).

    Args:
        logits: (B, C), (B, L, C), or (B, L) over positions.
        labels: the logits' shape without the last axis, or as probabilities the logits' shape; with `several`, the
            logits' shape.
        mask: (B, L); with `several`, also the logits' shape.
        several: whether every row has a label for each class, and not one class.

    Raises:
        MatchError: if the labels have another shape, or the mask fits neither rows nor entries.

    Example:
        >>> import torch
        >>> counted_labels(torch.zeros(3, 2), torch.tensor([0, 2, 1]), torch.tensor([[1, 1], [1, 1], [1, 0]]))
        tensor([ True, False, False])

    """
    if not several and labels.is_floating_point() and labels.shape == logits.shape and logits.dim() > 1:
        labels = labels[..., 0]  # the probabilities of a row's classes count together
    expected = logits.shape if several else logits.shape[:-1]
    if labels.shape != expected:
        raise MatchError(
            f"{'HardLabels' if several else 'HardLabel'} got logits of shape {tuple(logits.shape)} and labels of shape "
            f"{tuple(labels.shape)}: labels must have shape {tuple(expected)}"
            + ("." if several else ", or use HardLabels where every class has a 0/1 label of its own.")
        )
    check_logits_mask("HardLabel", logits, mask)
    keep = labels != IGNORED
    if mask is None:
        return keep
    if several:
        return keep & (mask.bool() if mask.shape == labels.shape else mask.bool().unsqueeze(-1))
    if entries(logits, mask) is None:
        return keep & mask.bool()
    inside = (labels >= 0) & (labels < logits.shape[-1])
    return inside & mask.bool().gather(-1, labels.long().masked_fill(~inside, 0).unsqueeze(-1)).squeeze(-1)


def _cross_entropy(
    logits: Tensor, labels: Tensor, keep: Tensor, inside: Tensor | None, label_smoothing: float
) -> Tensor:
    """Return one value per row."""
    log_p = masked_log_softmax(blank(widen(logits), keep), inside)
    if labels.shape == logits.shape:
        loss = cross_entropy(blank(labels.to(log_p.dtype), keep), log_p)
    else:
        loss = -log_p.gather(-1, labels.long().masked_fill(~keep, 0).unsqueeze(-1)).squeeze(-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * _mean_entry(log_p, inside)
    return loss


def _binary_cross_entropy(logits: Tensor, labels: Tensor, keep: Tensor, label_smoothing: float) -> Tensor:
    """Return one value per label."""
    logits = blank(widen(logits), keep)
    target = blank(labels.to(logits.dtype), keep) * (1 - label_smoothing) + label_smoothing / 2
    return -times(target, logsigmoid(logits)) - times(1 - target, logsigmoid(-logits))


def _mean_entry(log_p: Tensor, inside: Tensor | None) -> Tensor:
    """Return the mean over the last axis, over the entries that take part in the softmax."""
    if inside is None:
        return log_p.mean(-1)
    return blank(log_p, inside).sum(-1) / inside.bool().sum(-1).clamp(min=1)
