"""How far a model's classes lie apart: what a loss on logits may take for the cost of moving between them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.batch import required_field, sub_batch
from kd_lightning.core.errors import DataError
from kd_lightning.core.types import Batch
from kd_lightning.features.runner import Runner


def class_distances(
    model: nn.Module, batches: Iterable[Batch], address: str, num_labels: int, adapter: Adapter | None = None
) -> Tensor:
    """Return 1 − CKA between the features of each two classes: the costs of `WKDL`. Lv et al. 2024 (2412.08139).

    Each class is a matrix of its samples' features, of maps one row for each pixel, in the order they come and cut to
    the smallest class; CKA, linear centred kernel alignment, compares two of them row by row, as the authors' code
    does. The model runs once over the batches, in eval mode; features are kept in memory, N·D numbers.

    Args:
        model: the teacher.
        batches: with `labels`, as of a loader without augmentation.
        address: of maps (B, C, H, W), vectors (B, D) or logits.
        num_labels: K.
        adapter: as of `DistillationModule`.

    Returns:
        (K, K), symmetric, zero on the diagonal.

    Raises:
        AddressError: if the model has no such feature, or a batch no labels.
        DataError: if a class has no samples.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
        >>> batch = (torch.randn(30, 4), torch.arange(30) % 3)
        >>> class_distances(model, [batch], "0", num_labels=3).diagonal()
        tensor([0., 0., 0.])

    """
    classes: list[list[Tensor]] = [[] for _ in range(num_labels)]
    runner, training = Runner(model, adapter), [m for m in model.modules() if m.training]
    runner.ask([address])
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                found, labels = runner(sub_batch(batch, "teacher"))[address], required_field(batch, "labels")
                for label in labels.unique().tolist():
                    classes[label].append(_rows(found[labels == label]))
    finally:
        runner.close()
        for module in training:
            module.training = True
    missing = next((label for label, parts in enumerate(classes) if not parts), None)
    if missing is not None:
        raise DataError(f"There is no sample of class {missing}, so its distance to the others is not known.")
    features = [torch.cat(parts) for parts in classes]
    size = min(map(len, features))
    return cka_distances(torch.stack([rows[:size] for rows in features]))


def cka_distances(features: Tensor) -> Tensor:
    """Return 1 − CKA of each two of K matrices, (K, K). Kornblith et al. 2019 (1905.00414), eq. 3 for linear kernels.

    Args:
        features: (K, n, D).

    Example:
        >>> x = torch.randn(2, 9, 3)
        >>> torch.allclose(cka_distances(x), cka_distances(5 * x + 1), atol=1e-5)
        True

    """
    centred = features - features.mean(1, keepdim=True)
    alike = torch.stack([(one.T @ centred).square().sum((1, 2)) for one in centred])
    own = alike.diagonal().sqrt()
    return (1 - alike / (own[:, None] * own)).clamp(min=0).fill_diagonal_(0.0)


def _rows(features: Tensor) -> Tensor:
    """Return features as rows, of maps one for each pixel."""
    wide = features.float().cpu()
    return wide.flatten(2).transpose(1, 2).flatten(0, 1) if wide.dim() == 4 else wide
