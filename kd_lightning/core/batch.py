"""Reading a batch, whichever of the accepted forms it has: mapping, `(x, y)`, or `{"student": …, "teacher": …}`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor

from kd_lightning.core.errors import AddressError, hint
from kd_lightning.core.types import Batch

Role: TypeAlias = Literal["student", "teacher"]

_BATCH_FIELD = re.compile(r"labels?|\w+_(labels?|positions)|sample_id")

VIEW_ID = "view_id"
"""The field with the number of row and view, where the same rows come in several augmented views."""

ROW_MARK = "row_mark"
"""The field with a hash of each row's inputs, where the data module makes one; teacher caches compare it."""

BOOKKEEPING = frozenset({"logits_mask", "split", "task", "teacher_cache", "word_ids", VIEW_ID, ROW_MARK})
"""Fields of a batch that are no inputs of a model, unless its `forward` names them."""


def is_batch_field(address: str) -> bool:
    """Tell whether an address names a field of the batch (`labels`, `start_positions`) and not a model's feature.

    Example:
        >>> is_batch_field("labels"), is_batch_field("start_positions"), is_batch_field("logits")
        (True, True, False)

    """
    return _BATCH_FIELD.fullmatch(address) is not None


def sub_batch(batch: Batch, role: Role) -> Batch:
    """Return the student's or the teacher's sub-batch, or the batch itself where it has none."""
    if isinstance(batch, Mapping) and "student" in batch and "teacher" in batch:
        return batch[role]
    return batch


def field(batch: Batch, name: str) -> Any | None:
    """Return a field of the batch, or None where it has no such field; the second of a pair `(x, y)` is `labels`.

    Where x of such a pair is a mapping, it has the other fields. Where each role has its own sub-batch, fields beside
    them count first, then the student's.
    """
    if isinstance(batch, Mapping):
        if name in batch:
            return batch[name]
        return field(batch["student"], name) if "student" in batch else None
    if not _is_pair(batch):
        return None
    return batch[1] if name == "labels" else field(batch[0], name)


def _is_pair(batch: Batch) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2


def required_field(batch: Batch, name: str) -> Any:
    """Return a field of the batch.

    Raises:
        AddressError: if the batch has no such field; names the closest it has.

    """
    value = field(batch, name)
    if value is None:
        if isinstance(batch, Mapping):
            advice = hint(name, [str(key) for key in batch])
        elif _is_pair(batch):
            advice = "It is a pair (x, labels); give a mapping for more names."
        else:
            advice = "Collate batches into mappings, such as {'input_ids': …, 'attention_mask': …, 'labels': …}."
        raise AddressError(f"The batch has no field '{name}'. {advice}")
    return value


def task_of(batch: Batch, tasks: Collection[str]) -> str:
    """Return which of several tasks a batch belongs to: its field `task`.

    Raises:
        AddressError: if the batch has no such field, or names another task.

    Example:
        >>> task_of({"task": "sst2", "labels": 1}, ["sst2", "cola"])
        'sst2'

    """
    task = batch.get("task") if isinstance(batch, Mapping) else None
    if not isinstance(task, str):
        raise AddressError(f"Each batch must name its task: a mapping with 'task', one of {', '.join(tasks)}.")
    if task not in tasks:
        raise AddressError(f"There is no task '{task}'. {hint(task, list(tasks))}")
    return task


def logits_mask(batch: Batch) -> Tensor | None:
    """Return the (B, L) mask of positions whose logits count, or None where the batch has no such field."""
    mask = field(batch, "logits_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def token_mask(batch: Batch) -> Tensor | None:
    """Return the (B, L) attention mask, 1 at real tokens, or None where the batch has none (images, plain tensors)."""
    mask = field(batch, "attention_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def batch_size(batch: Batch) -> int:
    """Return the number of rows: of the first tensor among the batch's values, else of the first list of rows.

    Example:
        >>> import torch
        >>> images = [torch.zeros(3, 32, 24), torch.zeros(3, 20, 32)]  # of many sizes, so that they make no one tensor
        >>> batch_size({"pixel_values": images}), batch_size({"pixel_values": images, "labels": torch.tensor([1, 0])})
        (2, 2)

    """
    return _rows(batch) or 1


def _rows(value: Any) -> int:
    """Return the number of rows, 0 where nothing tells."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else 1
    parts = list(value.values()) if isinstance(value, Mapping) else _listed(value)
    direct = next((part for part in parts if isinstance(part, Tensor)), None)
    if direct is not None:
        return _rows(direct)
    return next((rows for part in parts if (rows := _rows_of_part(part))), 0)


def _rows_of_part(part: Any) -> int:
    """Return the number of rows of a part of a batch; a list has an image (C, H, W), or a mapping, for each."""
    listed = _listed(part)
    is_list_of_rows = any(isinstance(each, Mapping) or (isinstance(each, Tensor) and each.ndim == 3) for each in listed)
    return len(listed) if is_list_of_rows else _rows(part)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
