"""Building a cache: a predict pass of Lightning's Trainer in which a teacher is the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.core.files import remove_leftovers
from kd_lightning.core.locks import locked
from kd_lightning.core.types import Batch, Features
from kd_lightning.features.addresses import layer_address
from kd_lightning.features.state import teacher_state
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.columns import Codec, spans_of
from kd_lightning.teachers.cache.forecast import (
    Forecast,
    check_features,
    check_numbers,
    check_rows,
    forecast,
    reversed_rows,
)
from kd_lightning.teachers.cache.manifest import MANIFEST, Fingerprint, Manifest, ensure_plan
from kd_lightning.teachers.cache.rows import rows_of
from kd_lightning.teachers.cache.shard import Shard, Writer, finished_shards, index_of
from kd_lightning.teachers.live import as_teacher

State: TypeAlias = Mapping[str, Sequence[str]]
"""What losses ask of the teacher's weights: names of `features.state.STATE` by address."""


def build_cache(
    teacher: TeacherSource | nn.Module,
    dataloader: Iterable[Any],
    path: Path,
    addresses: Sequence[str],
    top_k: int | None = None,
    dtype: str = "bf16",
    trainer: Trainer | None = None,
    data: str | Mapping[str, Any] | None = None,
    announce: Callable[[str], None] = rank_zero_info,
    state: State | None = None,
) -> None:
    """Build a cache as `TeacherCache.build` describes; `announce` is called with a forecast of rows, bytes and time."""
    codec, source = Codec(dtype, top_k), as_teacher(teacher)
    addresses = unique_addresses(addresses)
    # Lightning's own errors would be less clear, and late.
    if not isinstance(dataloader, Iterable) and not hasattr(dataloader, "__getitem__"):
        got = type(dataloader).__name__
        raise ConfigError(f"Expected argument `dataloader` to give batches, as a DataLoader does, but got {got}.")
    if trainer is not None and not hasattr(trainer, "predict"):
        raise ConfigError(f"Expected argument `trainer` to be a lightning.pytorch.Trainer but got {trainer!r}.")
    source.ask(addresses)
    check_rows(getattr(dataloader, "dataset", None))
    plan = plan_of(source, addresses, dtype, top_k, data, state)
    codec.kinds = {address: info.kind for address, info in plan.features.items()}
    trainer = trainer or Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, devices=1)
    first = getattr(rank_zero_only, "rank", 0) == 0
    with locked(path) if first else nullcontext():
        if first:
            ensure_plan(path, plan)
            remove_leftovers(path)
        try:
            predictor = Predictor(source, path, plan, codec, dataloader, announce)
            loader: Any = dataloader
            if isinstance(loader, list):  # which Lightning takes for a list of loaders
                loader = DataLoader(loader, batch_size=None)  # type: ignore[arg-type]
            trainer.predict(predictor, loader, return_predictions=False)
        finally:  # a trainer calls no teardown after an exception
            source.close()
            source.to("cpu")
    if not (path / MANIFEST).is_file():
        raise CacheError("The loader gives no rows, so there is nothing to build a teacher cache from.")


def unique_addresses(addresses: Sequence[str]) -> list[str]:
    """Return addresses, each once.

    Raises:
        ConfigError: if there are none, or they are no list of strings.

    """
    if isinstance(addresses, str) or not addresses or not all(isinstance(address, str) for address in addresses):
        raise ConfigError(f"Expected argument `addresses` to be a list such as ['logits'], but got {addresses!r}.")
    return list(dict.fromkeys(addresses))


def plan_of(
    source: TeacherSource,
    addresses: Sequence[str],
    dtype: str,
    top_k: int | None,
    data: str | Mapping[str, Any] | None,
    state: State | None = None,
) -> Manifest:
    """Return the manifest of a cache that is to be built, without files.

    Example:
        >>> plan = plan_of(as_teacher(nn.Linear(4, 2)), ["logits"], "bf16", top_k=None, data="mine")
        >>> sorted(plan.fingerprint.parts), plan.features["logits"].kind
        (['addresses', 'data', 'dtype', 'teacher', 'top_k'], 'classes')

    """
    info = source.info
    stacks: dict[str, int] = {}
    for address in addresses:
        teacher, slash, rest = address.rpartition("/")
        if (layer := layer_address(rest)) is not None:
            stack = f"{teacher}{slash}{layer.stack}"
            stacks[stack] = info.layers(stack)
    parts = {
        "teacher": source.identity(),
        "addresses": sorted(set(addresses)),
        "dtype": dtype,
        "top_k": top_k,
        **(data if isinstance(data, Mapping) else {"data": data}),
    }
    features, state = {address: info.feature(address) for address in addresses}, state or {}
    if not isinstance(state, Mapping) or not state.keys() <= features.keys():
        raise ConfigError(
            f"Expected argument `state` to be names by address, of addresses that are cached, but got {state!r}."
        )
    if held := sorted(f"{address} {name}" for address, names in state.items() for name in names):
        parts["teacher_state"] = held
    for address, names in state.items():
        features[address] = replace(features[address], state={n: teacher_state(features[address], n) for n in names})
    return Manifest(Fingerprint(parts), stacks, features)


class Predictor(LightningModule):
    """The teacher as the model of a predict pass: its outputs on each batch are written to the cache.

    Args:
        teacher: whose features are settled.
        folder: the cache's.
        plan: what is being built.
        codec: how it is stored.
        loader: as the user gave it; a Trainer may have made another of it, whose size is unknown.
        announce: is called with a forecast before the first row is written.

    """

    def __init__(
        self,
        teacher: TeacherSource,
        folder: Path,
        plan: Manifest,
        codec: Codec,
        loader: Iterable[Any],
        announce: Callable[[str], None] = rank_zero_info,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.folder = folder
        self.plan = plan
        self.codec = codec
        self.loader = loader
        self.announce = announce
        self.announced = False

    def setup(self, stage: str) -> None:
        """Move the teacher to the device; find which rows are stored already."""
        self.teacher.to(self.trainer.strategy.root_device)
        self.trainer.strategy.barrier()  # until the plan is written
        self.writer = Writer(self.folder, self.codec, str(self.plan.fingerprint), self.global_rank)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> int:
        """Run the teacher on the batch if rows of it are missing, and return how many."""
        rows = rows_of(batch)
        return self.writer.add(rows, partial(self._run, batch, rows.mask))

    def _run(self, batch: Batch, mask: Tensor | None) -> Features:
        features = self.teacher(batch)
        check_numbers(features, mask)
        if self.trainer.is_global_zero and not self.announced:
            self._announce(batch, features)
            self.announced = True
        return features

    def _announce(self, batch: Batch, features: Features) -> None:
        """Announce what it will take, before the first row is kept."""
        coming, there = self._forecast(batch, features), len(self.writer.index)
        known = f" {there:,} rows are stored already." if there else ""
        self.announce(f"Teacher cache in {self.folder}: {coming}.{known}")
        coming.check_disk(self.folder)

    def _forecast(self, batch: Batch, features: Features) -> Forecast:
        """Run the teacher on the reversed batch: measures its time, and its outputs of each row must be the same."""
        rows = rows_of(batch)
        count = len(rows.ids)
        self.codec.pack(features, rows.mask, count)
        turned = reversed_rows(batch, count)
        start = time.perf_counter()
        reverse = self.teacher(turned)
        next(iter(reverse.values())).cpu()  # waits for the device
        seconds = time.perf_counter() - start
        check_features(features, reverse)
        tokens = np.array([count for _, count in spans_of(rows.mask, count)])
        padded = 0 if rows.mask is None else rows.mask.shape[1]
        whole = forecast(self.codec, self.loader, tokens, padded, seconds, self.trainer.world_size)
        return whole.without(len(self.writer.index))

    def on_predict_end(self) -> None:
        """Write the remaining rows and, after all processes have, the manifest."""
        self.writer.flush()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            finish(self.folder, self.plan)
        self.trainer.strategy.barrier()


def finish(folder: Path, plan: Manifest) -> None:
    """Write the manifest over all finished shards.

    Raises:
        CacheError: if features have other shapes in some process, or two rows have one `sample_id`.

    """
    plan.shards = finished_shards(folder, str(plan.fingerprint))
    if not plan.shards:  # for which `build_cache` has an error
        return
    shards = [Shard(folder / info.name) for info in plan.shards]
    index_of(shards)
    codecs = {shard.codec.metadata()["kd_lightning"] for shard in shards}
    if len(codecs) > 1:
        raise CacheError(f"The shards in {folder} differ in the shape of their features: {' and '.join(codecs)}.")
    plan.save(folder)
