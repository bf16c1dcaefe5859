"""How difficult a teacher finds each training row, for a curriculum: read from a cache, so that no model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.batch import field, token_mask
from kd_lightning.core.errors import DataError
from kd_lightning.data import RowDataModule
from kd_lightning.functional.hard_label import IGNORED
from kd_lightning.functional.precision import widen
from kd_lightning.teachers import TeacherSource


def difficulties(data: RowDataModule, teacher: TeacherSource, by: str) -> np.ndarray:
    """Return the difficulty of each training row, (rows,): of tokens, the mean over those that count.

    Args:
        data: whose training rows; of rows that are augmented the first view counts.
        teacher: a cache of them.
        by: `loss`, the teacher's cross entropy with the label at T = 1, or `entropy`, of its probabilities.

    Raises:
        DataError: if a row has no class, or none of its tokens has one.

    """
    teacher.ask(["logits"])
    found = np.full(len(data.train_rows), np.nan)
    ids = np.arange(len(found)) * (data.views if data.views and data.varies else 1)
    for batch in data.iterate_once(ids):
        values = of_batch(widen(teacher(batch)["logits"]), batch, by)
        found[np.asarray(field(batch, "sample_id"))] = values.double().numpy()
    if np.isnan(found).any():
        row = int(np.flatnonzero(np.isnan(found))[0])
        raise DataError(f"Row {row} has no difficulty: a curriculum needs one class, or a class per token, for each.")
    return found


def of_batch(logits: Tensor, batch: Any, by: str) -> Tensor:
    """Return the difficulty of each row of a batch, (B,); not-a-number where nothing in it counts.

    Example:
        >>> of_batch(torch.zeros(1, 2), {"labels": torch.tensor([1])}, by="loss")
        tensor([0.6931])

    """
    log_p, labels = logits.log_softmax(-1), field(batch, "labels")
    keep = torch.ones(logits.shape[:-1], dtype=torch.bool)
    if by == "loss":
        if not isinstance(labels, Tensor) or labels.shape != keep.shape or labels.is_floating_point():
            raise DataError("A curriculum by the teacher's loss needs one class for each row: take curriculum=entropy.")
        keep = labels != IGNORED
        each = -log_p.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    else:
        mask = token_mask(batch)
        keep = mask.bool() if mask is not None and logits.dim() == 3 else keep
        each = -(log_p.exp() * log_p).sum(-1)
    if each.dim() == 1:
        return torch.where(keep, each, torch.nan)
    return torch.where(keep, each, 0.0).sum(-1) / keep.sum(-1)
