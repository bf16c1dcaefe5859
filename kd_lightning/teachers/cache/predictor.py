"""A teacher as the model of a Trainer's predict pass, which writes down what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule

from kd_lightning.errors import CacheError
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.forecast import Forecast, forecast
from kd_lightning.teachers.cache.layout import spans_of
from kd_lightning.teachers.cache.manifest import Manifest
from kd_lightning.teachers.cache.marks import rows_of
from kd_lightning.teachers.cache.shard import Shard, finished_shards
from kd_lightning.teachers.cache.writer import Writer
from kd_lightning.types import Batch


class Predictor(LightningModule):
    """Is given batches by a Trainer, and writes what the teacher says of them.

    Args:
        teacher: has been asked for its features.
        folder: the cache's.
        plan: what is being built.
        codec: how it is stored.
        announce: is told what it will take, before it starts.

    """

    def __init__(
        self, teacher: TeacherSource, folder: Path, plan: Manifest, codec: Codec, announce: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.folder = folder
        self.plan = plan
        self.codec = codec
        self.announce = announce

    def setup(self, stage: str) -> None:
        """Bring the teacher to the device; see which rows there are."""
        self.teacher.to(self.trainer.strategy.root_device)
        self.trainer.strategy.barrier()  # the plan is there for all
        self.writer = Writer(self.folder, self.codec, self.global_rank)

    def on_predict_start(self) -> None:
        """Say what it will take."""
        if not self.trainer.is_global_zero:
            return
        loader: Any = self.trainer.predict_dataloaders
        batch = next(iter(loader), None)
        if batch is None:
            raise CacheError("The loader gives no batch, so there is nothing to build a teacher cache from.")
        coming = self._forecast(self.trainer.strategy.batch_to_device(batch), loader)
        known = f" {len(self.writer.known):,} rows are there already." if self.writer.known else ""
        self.announce(f"Teacher cache in {self.folder}: {coming}.{known}")
        coming.check_disk(self.folder)

    def _forecast(self, batch: Batch, loader: Any) -> Forecast:
        """Run the teacher twice on a batch; the second time counts."""
        rows, start = rows_of(batch), 0.0
        for _ in range(2):
            start = time.perf_counter()
            columns = self.codec.pack(self.teacher(batch), rows.mask)
            next(iter(columns.values())).cpu()  # waits for the device
        seconds = time.perf_counter() - start
        tokens = np.array([count for _, count in spans_of(rows.mask, len(rows.ids))])
        padded = 0 if rows.mask is None else rows.mask.shape[1]
        whole = forecast(self.codec, loader, tokens, padded, seconds, self.trainer.world_size)
        return whole.without(len(self.writer.known))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> int:
        """Ask the teacher about rows that are missing, and return how many."""
        rows = rows_of(batch)
        if missing := self.writer.missing(rows.ids):
            self.writer.add(rows, self.teacher(batch))
        return len(missing)

    def on_predict_end(self) -> None:
        """Write the rest, and when all processes have, the manifest."""
        self.writer.flush()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            finish(self.folder, self.plan)
        self.trainer.strategy.barrier()

    def teardown(self, stage: str) -> None:
        """Leave the teacher as it was found."""
        self.teacher.close()
        self.teacher.to("cpu")


def finish(folder: Path, plan: Manifest) -> None:
    """Write the manifest over all finished shards.

    Raises:
        CacheError: the teacher gave features of another shape to some process.

    """
    plan.shards = finished_shards(folder)
    codecs = {Shard(folder / info.name).codec.notes()["kd_lightning"] for info in plan.shards}
    if len(codecs) > 1:
        raise CacheError(f"The shards in {folder} differ in the shape of their features: {' and '.join(codecs)}.")
    plan.save(folder)
