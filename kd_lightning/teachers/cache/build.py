"""Building a cache: a predict pass of Lightning's Trainer in which a teacher is the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import nn
from torch.utils.data import DataLoader

from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.core.locks import locked
from kd_lightning.core.types import ModelInfo
from kd_lightning.features.addresses import layer_address
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.determinism import check_rows
from kd_lightning.teachers.cache.fingerprint import Fingerprint
from kd_lightning.teachers.cache.manifest import MANIFEST, Manifest, settle_plan
from kd_lightning.teachers.cache.predictor import Predictor
from kd_lightning.teachers.live import as_teacher


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
    addresses = listed(addresses)
    _check_arguments(dataloader, trainer)
    source.ask(addresses)
    check_rows(getattr(dataloader, "dataset", None))
    plan = plan_of(source, addresses, dtype, top_k, data)
    codec.kinds = {address: info.kind for address, info in plan.features.items()}
    trainer = trainer or Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, devices=1)
    first = getattr(rank_zero_only, "rank", 0) == 0
    with locked(path) if first else nullcontext():
        if first:
            settle_plan(path, plan)
        try:
            predictor = Predictor(source, path, plan, codec, dataloader, announce)
            trainer.predict(predictor, _loader(dataloader), return_predictions=False)
        finally:  # a trainer calls no teardown after an exception
            source.close()
            source.to("cpu")
    if not (path / MANIFEST).is_file():
        raise CacheError("The loader gives no batch, so there is nothing to build a teacher cache from.")


def listed(addresses: Sequence[str]) -> list[str]:
    """Return addresses, each once.

    Raises:
        ConfigError: for none, or something else.

    """
    if isinstance(addresses, str) or not addresses or not all(isinstance(address, str) for address in addresses):
        raise ConfigError(f"Expected argument `addresses` to be a list such as ['logits'], but got {addresses!r}.")
    return list(dict.fromkeys(addresses))


def _check_arguments(dataloader: Any, trainer: Any) -> None:
    # Lightning would say it less clearly, and late.
    if not isinstance(dataloader, Iterable) and not hasattr(dataloader, "__getitem__"):
        got = type(dataloader).__name__
        raise ConfigError(f"Expected argument `dataloader` to give batches, as a DataLoader does, but got {got}.")
    if trainer is not None and not hasattr(trainer, "predict"):
        raise ConfigError(f"Expected argument `trainer` to be a lightning.pytorch.Trainer but got {trainer!r}.")


def _loader(batches: Iterable[Any]) -> Any:
    # Lightning takes a plain list for a list of loaders.
    return DataLoader(batches, batch_size=None) if isinstance(batches, list) else batches  # type: ignore[arg-type]


def plan_of(
    source: TeacherSource, addresses: Sequence[str], dtype: str, top_k: int | None, data: str | None
) -> Manifest:
    """Return the manifest of a cache that is to be built, without files.

    Example:
        >>> plan = plan_of(as_teacher(nn.Linear(4, 2)), ["logits"], "bf16", top_k=None, data="mine")
        >>> sorted(plan.fingerprint.parts), plan.features["logits"].kind
        (['addresses', 'data', 'dtype', 'teacher', 'top_k'], 'classes')

    """
    info = source.info
    parts = {
        "teacher": source.identity(),
        "data": data,
        "addresses": sorted(set(addresses)),
        "dtype": dtype,
        "top_k": top_k,
    }
    return Manifest(Fingerprint(parts), _stacks(info, addresses), {a: info.feature(a) for a in addresses})


def _stacks(info: ModelInfo, addresses: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for address in addresses:
        teacher, slash, rest = address.rpartition("/")
        if (asked := layer_address(rest)) is not None:
            stack = f"{teacher}{slash}{asked.stack}"
            found[stack] = info.layers(stack)
    return found
