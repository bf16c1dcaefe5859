"""A teacher's outputs on disk, by sample id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_lightning.core.errors import CacheError
from kd_lightning.core.types import FeatureInfo, Features
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.cache.build import State, build_cache, plan_of, unique_addresses
from kd_lightning.teachers.cache.columns import Codec, spans_of
from kd_lightning.teachers.cache.manifest import Fingerprint, Manifest
from kd_lightning.teachers.cache.rows import RowFingerprints, Rows, fingerprint_rows
from kd_lightning.teachers.cache.shard import Shard, as_numpy
from kd_lightning.teachers.live import as_teacher


class TeacherCache:
    """What a teacher once returned for each row of a data set: on disk, memory-mapped, without padding.

    `TeacherCache.build` makes one, `CachedTeacher` reads it. A cache keeps a fingerprint of each row's inputs, and
    reading a row with other inputs is an error.

    Args:
        path: the folder.
        verify: read every file once and compare checksums, at several GB/s; else only sizes are compared.

    Raises:
        CacheError: if there is no cache, it is unfinished, or a file is missing, truncated or changed.

    """

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        self.path = Path(path)
        self.manifest = Manifest.open(self.path)
        made_from = str(self.manifest.fingerprint)
        for info in self.manifest.shards:
            info.check(self.path, whole=verify)
            if info.made_from != made_from:
                raise CacheError(f"The shard {self.path / info.name} is of another teacher cache. Build this one anew.")
        self._shards = [Shard(self.path / info.name) for info in self.manifest.shards]
        self._codec = self._shards[0].codec if self._shards else Codec()
        ids = np.concatenate([shard.ids for shard in self._shards] or [np.zeros(0, np.int64)])
        self._ids, first = np.unique(ids, return_index=True)  # rows that two processes wrote count once
        rows = [len(shard.ids) for shard in self._shards]
        self._shard = np.repeat(np.arange(len(rows)), rows)[first]
        self._row = np.concatenate([np.arange(count) for count in rows] or [np.zeros(0, np.int64)])[first]

    def __repr__(self) -> str:
        return f"TeacherCache({self.summary})"

    @property
    def summary(self) -> str:
        """Path, rows, addresses and fingerprint, on one line."""
        return f"'{self.path}', {len(self):,} rows, {list(self.addresses)}, fingerprint='{self.fingerprint}'"

    def __len__(self) -> int:
        return len(self._ids)

    def __reduce__(self) -> Any:
        return type(self), (self.path.absolute(), False)  # other processes map the files too

    @property
    def fingerprint(self) -> Fingerprint:
        """What it was made from, part by part."""
        return self.manifest.fingerprint

    @property
    def addresses(self) -> tuple[str, ...]:
        """The features it holds."""
        return self._codec.addresses

    def feature(self, address: str) -> FeatureInfo:
        """Return what a feature's axes are and how wide it is, by the teacher's structure or else as it is stored."""
        known = self.manifest.features[address]
        return known if known.width is not None else replace(known, width=self._codec.width(address, known.kind))

    @property
    def sample_ids(self) -> np.ndarray:
        """The rows it holds, ascending."""
        return self._ids

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return sum(info.bytes for info in self.manifest.shards)

    def read(self, rows: Rows, addresses: Sequence[str], pin_memory: bool = False) -> Features:
        """Return the features of a batch's rows, padded as the batch is.

        Args:
            rows: the batch, as `rows_of` describes it.
            addresses: of features it holds.
            pin_memory: return them in pinned memory, for asynchronous copies to a GPU.

        Raises:
            CacheError: if there are no rows, one is not in the cache, or its inputs differ from those the teacher was
                run on.

        """
        if not len(rows.ids):
            raise CacheError("The batch has no rows, for which a teacher cache has nothing to return.")
        places = self._places(rows.ids)
        spans = spans_of(rows.mask, len(rows.ids))
        self._check(rows, spans, places)
        length = 0 if rows.mask is None else rows.mask.shape[1]

        def column(name: str) -> Tensor:
            return self._padded(name, places, spans, length, pin_memory)

        return {address: self._codec.unpack(address, column) for address in addresses}

    def _places(self, ids: np.ndarray) -> list[tuple[Shard, int]]:
        found = np.searchsorted(self._ids, ids).clip(max=max(len(self) - 1, 0))
        missing = ids[self._ids[found] != ids] if len(self) else ids
        if len(missing):
            held = f"{len(self):,} rows, {self._ids[0]} to {self._ids[-1]}" if len(self) else "no rows"
            raise CacheError(
                f"{self._named(missing[0])} (its sample_id) is not in the teacher cache {self.path}, which holds "
                f"{held}. Build it from all rows that are trained on."
            )
        return [(self._shards[self._shard[i]], int(self._row[i])) for i in found]

    def _check(self, rows: Rows, spans: list[tuple[int, int]], places: list[tuple[Shard, int]]) -> None:
        """Compare the fingerprints of rows now with those they had when the cache was built."""
        parts = ([getattr(shard.fingerprints, name)[row] for shard, row in places] for name in RowFingerprints._fields)
        then = RowFingerprints(*map(np.stack, parts))
        tokens = np.array([int(shard.tokens[row]) for shard, row in places])
        changed = then.differ(fingerprint_rows(rows, spans)) | (tokens != np.array([count for _, count in spans]))
        if changed.any():
            raise CacheError(
                f"{self._named(rows.ids[changed][0])} does not look as it did when the teacher cache {self.path} was "
                "made: other data, another split (validation without metrics uses the teacher too) or tokenizer, "
                "another augmentation or number of views, or random augmentation without views."
            )

    def _named(self, key: int) -> str:
        """Return what an error calls a row."""
        views = self.fingerprint.parts.get("views")
        return f"Row {key}" if views is None else f"View {key % views} of row {key // views}"

    def _padded(
        self, name: str, places: list[tuple[Shard, int]], spans: list[tuple[int, int]], length: int, pin_memory: bool
    ) -> Tensor:
        layout = self._codec.layouts[name]
        padded = torch.zeros(
            len(places), *layout.shape(length), dtype=self._codec.dtype_of(name), pin_memory=pin_memory
        )
        target = as_numpy(padded)
        for i, (shard, row) in enumerate(places):
            target[(i, *layout.part(*spans[i]))] = shard.block(name, row)
        return padded

    @classmethod
    def fingerprint_of(
        cls,
        teacher: TeacherSource | nn.Module,
        addresses: Sequence[str],
        top_k: int | None = None,
        dtype: str = "bf16",
        data: str | Mapping[str, Any] | None = None,
        state: State | None = None,
    ) -> Fingerprint:
        """Return the fingerprint of the cache that `build` would make of the same arguments."""
        Codec(dtype, top_k)  # refuses what cannot be
        return plan_of(as_teacher(teacher), unique_addresses(addresses), dtype, top_k, data, state).fingerprint

    @classmethod
    def build(
        cls,
        teacher: TeacherSource | nn.Module,
        dataloader: Iterable[Any],
        path: str | Path,
        addresses: Sequence[str],
        top_k: int | None = None,
        dtype: str = "bf16",
        trainer: Trainer | None = None,
        data: str | Mapping[str, Any] | None = None,
        state: State | None = None,
    ) -> TeacherCache:
        """Run the teacher over a loader's batches, by a Trainer's predict pass, and store its outputs.

        Announces rows, bytes and time before it starts. Finished shards stay when it is killed, and a second call
        resumes after the last one; on a finished cache it adds the rows that are missing.

        Args:
            teacher: a source, an ensemble for instance, or a model.
            dataloader: gives batches with a `sample_id` (B,), one integer per row of the data. Order, batch size and
                padding need not be those of training; only pad a model with absolute positions on the right, since on
                the left its outputs change with the batch.
            path: a folder; it is made if it does not exist.
            addresses: what to store, such as `logits`, `hidden.4`, `attention.12`, or of an ensemble `a/hidden.4`.
            top_k: of logits over classes or words keep the k largest, and the mass of the rest; None keeps all.
            dtype: `bf16`, `fp16` or `fp32`.
            trainer: decides device and processes; None: one device, without logger and checkpoints.
            data: what identifies the data, such as a data module's `fingerprint`, or named parts of that, such as its
                `cached_as`; is part of the cache's own.
            state: what losses ask of the teacher's weights, by address: an objective's `teacher_state`, once it is
                bound to the teacher.

        Raises:
            AddressError: if the teacher has no such feature.
            CacheError: if batches have no `sample_id`, another cache is in the folder, rows are augmented at random, or
                the disk is too small.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> batches = [{"input": torch.ones(2, 4), "sample_id": torch.tensor([0, 1])}]
            >>> quiet = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
            >>> with TemporaryDirectory() as folder:
            ...     cache = TeacherCache.build(nn.Linear(4, 2), batches, f"{folder}/cache", ["logits"], trainer=quiet)
            ...     len(cache), cache.addresses
            (2, ('logits',))

        """
        build_cache(teacher, dataloader, Path(path), addresses, top_k, dtype, trainer, data, state=state)
        return cls(path, verify=False)
