"""Teacher outputs read from a cache; no model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kd_lightning.core.batch import field
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.teachers.base import DeclaredInfo, TeacherSource
from kd_lightning.teachers.batch_teacher import FIELD
from kd_lightning.teachers.cache import Fingerprint, TeacherCache
from kd_lightning.teachers.cache.manifest import Manifest, check_expected
from kd_lightning.teachers.cache.rows import rows_of


class CachedTeacher(TeacherSource):
    """Returns cached teacher outputs for the batch's rows, by their `sample_id`.

    A `DistillationModule` reads them before the batch is moved to the device (`prepare`), so that no step waits.

    Args:
        path: the folder of a `TeacherCache`.
        expect: the fingerprint of what would be built now, whole or as text; None: no check.
        verify: compare every file's checksum first; else only sizes.

    Raises:
        CacheError: if there is no cache, it is damaged, or it was made from something else than expected.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch import Trainer
        >>> batch = {"input": torch.ones(2, 4), "sample_id": torch.tensor([5, 7])}
        >>> quiet = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     model = torch.nn.Linear(4, 3)
        ...     cache = TeacherCache.build(model, [batch], f"{folder}/cache", ["logits"], dtype="fp32", trainer=quiet)
        ...     teacher = CachedTeacher(f"{folder}/cache", expect=cache.fingerprint)
        ...     teacher.ask(["logits"])
        ...     torch.equal(teacher(batch)["logits"], model(batch["input"]))
        True

    """

    def __init__(
        self, path: str | Path, expect: Fingerprint | Mapping[str, Any] | str | None = None, verify: bool = True
    ) -> None:
        if expect is not None:  # before anything large is read
            check_expected(path, Manifest.open(Path(path)).fingerprint, expect)
        self.cache = TeacherCache(path, verify)
        features = {address: self.cache.feature(address) for address in self.cache.addresses}
        self._info = DeclaredInfo(features, self.cache.manifest.stacks, f"The teacher cache in {self.cache.path}")
        self._addresses: tuple[str, ...] = ()
        self._device = torch.device("cpu")

    def __repr__(self) -> str:
        return f"CachedTeacher({self.cache.summary})"

    @property
    def info(self) -> ModelInfo:
        """What can be requested: what is in the cache."""
        return self._info

    def identity(self) -> dict[str, Any]:
        """Return what the cache was made from."""
        return {"kind": "CachedTeacher", "cache": dict(self.cache.fingerprint.parts)}

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns."""
        self.info.check(addresses)
        self._addresses = tuple(addresses)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with its rows' features in the field `teacher_cache`, to be moved along with it."""
        if not isinstance(batch, Mapping) or FIELD in batch or not self._addresses:
            return batch
        return {**batch, FIELD: self._read(batch)}

    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch."""
        prepared = field(batch, FIELD)
        if isinstance(prepared, Mapping) and all(address in prepared for address in self._addresses):
            return {address: prepared[address] for address in self._addresses}
        return {address: x.to(self._device) for address, x in self._read(batch).items()}

    def _read(self, batch: Batch) -> Features:
        return self.cache.read(rows_of(batch), self._addresses, pin_memory=self._device.type == "cuda")

    def to(self, device: torch.device | str) -> CachedTeacher:
        """Return features there from now on."""
        self._device = torch.device(device)
        return self
