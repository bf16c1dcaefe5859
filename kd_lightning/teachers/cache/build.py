"""Building a cache: a predict pass of Lightning's Trainer in which a teacher is the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd_lightning.errors import CacheError
from kd_lightning.features.addresses import layer_address
from kd_lightning.storage.once import locked
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.fingerprint import Fingerprint
from kd_lightning.teachers.cache.manifest import Manifest, settle_plan
from kd_lightning.teachers.cache.predictor import Predictor
from kd_lightning.teachers.live import as_teacher
from kd_lightning.types import Anatomy


def build_cache(
    teacher: TeacherSource | nn.Module,
    dataloader: Iterable[Any],
    path: Path,
    addresses: Sequence[str],
    top_k: int | None = None,
    dtype: str = "bf16",
    trainer: Trainer | None = None,
    data: str | None = None,
    announce: Callable[[str], None] = rank_zero_info,
) -> None:
    """Do what `TeacherCache.build` says; `announce` is told what it will take."""
    codec, source = Codec(dtype, top_k), as_teacher(teacher)
    addresses = list(dict.fromkeys(addresses))
    source.ask(addresses)
    check_steady(getattr(dataloader, "dataset", None))
    plan = plan_of(source, addresses, codec, data)
    trainer = trainer or Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, devices=1)
    first = getattr(rank_zero_only, "rank", 0) == 0
    with locked(path) if first else nullcontext():
        if first:
            settle_plan(path, plan)
        trainer.predict(Predictor(source, path, plan, codec, announce), _loader(dataloader), return_predictions=False)


def _loader(batches: Iterable[Any]) -> Any:
    # Lightning takes a plain list for a list of loaders.
    return DataLoader(batches, batch_size=None) if isinstance(batches, list) else batches  # type: ignore[arg-type]


def plan_of(source: TeacherSource, addresses: Sequence[str], codec: Codec, data: str | None) -> Manifest:
    """Return the manifest of a cache that is to be built, without files.

    Example:
        >>> plan = plan_of(as_teacher(nn.Linear(4, 2)), ["logits"], Codec(), data="mine")
        >>> sorted(plan.fingerprint.parts), plan.widths
        (['addresses', 'data', 'dtype', 'teacher', 'top_k'], {'logits': None})

    """
    anatomy = source.anatomy
    parts = {
        "teacher": source.identity(),
        "data": data,
        "addresses": sorted(addresses),
        "dtype": codec.dtype,
        "top_k": codec.top_k,
    }
    return Manifest(Fingerprint(parts), _stacks(anatomy, addresses), {a: anatomy.width(a) for a in addresses})


def _stacks(anatomy: Anatomy, addresses: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for address in addresses:
        teacher, slash, rest = address.rpartition("/")
        if (asked := layer_address(rest)) is not None:
            stack = f"{teacher}{slash}{asked.stack}"
            found[stack] = anatomy.layers(stack)
    return found


def check_steady(dataset: Any) -> None:
    """Refuse rows that look different each time they are asked for.

    Raises:
        CacheError: they are augmented at random.

    """
    random = bool(getattr(dataset, "augment", None)) or any(_changes(dataset, row) for row in range(3))
    if random:
        raise CacheError(
            "These rows are augmented at random, and a cache holds what the teacher said of each row once. Leave the "
            "augmentation out, or use a live teacher."
        )


def _changes(dataset: Any, row: int) -> bool:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or row >= len(dataset):
        return False
    return not _equal(dataset[row], dataset[row])


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return all(map(_equal, one, other))
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool((one == other) is not False)
