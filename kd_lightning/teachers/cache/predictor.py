"""A teacher as the model of a Trainer's predict pass, which writes down what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import Batch, Features
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.determinism import check_features, reversed_rows
from kd_lightning.teachers.cache.forecast import Forecast, forecast
from kd_lightning.teachers.cache.layout import spans_of
from kd_lightning.teachers.cache.manifest import Manifest
from kd_lightning.teachers.cache.row_fingerprints import rows_of
from kd_lightning.teachers.cache.shard import Shard, finished_shards
from kd_lightning.teachers.cache.writer import Writer, seen_in


class Predictor(LightningModule):
    """Is given batches by a Trainer, and writes what the teacher says of them.

    Args:
        teacher: has been asked for its features.
        folder: the cache's.
        plan: what is being built.
        codec: how it is stored.
        loader: as the user gave it; a Trainer may have made another of it, which no longer tells its size.
        announce: is told what it will take, before it starts.

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
        """Bring the teacher to the device; see which rows there are."""
        self.teacher.to(self.trainer.strategy.root_device)
        self.trainer.strategy.barrier()  # the plan is there for all
        self.writer = Writer(self.folder, self.codec, str(self.plan.fingerprint), self.global_rank)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> int:
        """Ask the teacher about rows that are missing, and return how many."""
        return self.writer.add(rows_of(batch), partial(self._ask, batch))

    def _ask(self, batch: Batch) -> Features:
        features = self.teacher(batch)
        if self.trainer.is_global_zero and not self.announced:
            self._announce(batch, features)
            self.announced = True
        return features

    def _announce(self, batch: Batch, features: Features) -> None:
        """Say what it will take, before the first row is kept."""
        coming, there = self._forecast(batch, features), len(self.writer.seen)
        known = f" {there:,} rows are there already." if there else ""
        self.announce(f"Teacher cache in {self.folder}: {coming}.{known}")
        coming.check_disk(self.folder)

    def _forecast(self, batch: Batch, features: Features) -> Forecast:
        """Run the teacher on a batch once more: this time counts, and must tell the same of each row."""
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
        return whole.without(len(self.writer.seen))

    def on_predict_end(self) -> None:
        """Write the rest, and when all processes have, the manifest."""
        self.writer.flush()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            finish(self.folder, self.plan)
        self.trainer.strategy.barrier()


def finish(folder: Path, plan: Manifest) -> None:
    """Write the manifest over all finished shards.

    Raises:
        CacheError: the teacher gave features of another shape to some process, or rows do not go by their numbers.

    """
    plan.shards = finished_shards(folder, str(plan.fingerprint))
    shards = [Shard(folder / info.name) for info in plan.shards]
    seen_in(shards)
    codecs = {shard.codec.notes()["kd_lightning"] for shard in shards}
    if len(codecs) > 1:
        raise CacheError(f"The shards in {folder} differ in the shape of their features: {' and '.join(codecs)}.")
    plan.save(folder)
