"""A live teacher: a frozen model that runs on every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.arguments import check_model
from kd_lightning.core.batch import sub_batch
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.types import Batch, Features, ModelInfo
from kd_lightning.features.runner import Runner
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.identity import function_identity, weights_hash

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LiveTeacher(TeacherSource):
    """Runs a frozen model on each batch: in eval mode, without gradient, in a precision of its own.

    The model itself is frozen and set to eval here, and moved to the student's device during a fit. From the second
    batch on, a Transformers model runs no deeper than the deepest layer that is requested, if only layers are.

    Args:
        model: the teacher. It may share no parameter with the student.
        precision: `float32`, `bfloat16` or `float16` converts its weights; None leaves them as they are. Floating
            inputs are converted to match, and the student's autocast never reaches it.
        compile: run it as one compiled graph together with its taps.
        adapter: for models that do not follow the usual forms.

    Raises:
        ConfigError: if the precision is unknown.

    Example:
        >>> teacher = LiveTeacher(nn.Linear(4, 2))
        >>> teacher.ask(["logits"])
        >>> teacher((torch.zeros(3, 4), None))["logits"].shape
        torch.Size([3, 2])

    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision | None = None,
        compile: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        check_model("teacher", model)
        if precision is not None and precision not in DTYPES:
            raise ConfigError(f"Unknown teacher precision '{precision}'. {hint(str(precision), DTYPES)}")
        self.model = model.requires_grad_(False).eval()
        self.precision = precision
        if precision is not None:
            self.model.to(DTYPES[precision])
        self._runner = Runner(self.model, adapter, compile, stop_early=True)
        self._device: torch.device | None = None

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        compiled = ", compiled" if self._runner.compile else ""
        precision = str(self._dtype()).removeprefix("torch.")
        return f"LiveTeacher({type(self.model).__name__}, {parameters:,} parameters, {precision}{compiled})"

    @property
    def info(self) -> ModelInfo:
        """What can be requested of the model."""
        return self._runner.info

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns."""
        self._runner.ask(addresses)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch; follows it to its device."""
        batch = sub_batch(batch, "teacher")
        device = _device_of(batch)
        if device is not None and device != self._device:
            self.to(device)
        self.model.eval()  # a caller may have put it back into training mode
        batch = _cast(batch, self._dtype())
        with torch.autocast(device_type=device.type if device is not None else "cpu", enabled=False):
            return self._runner(batch)

    def _dtype(self) -> torch.dtype:
        """Return what floating inputs must be: a trainer in `bf16-true` converts the batch, and not the teacher."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    def identity(self) -> dict[str, Any]:
        """Return the model's hash, the precision it computes in, and the identity of its adapter's functions."""
        plain = {"kind": "LiveTeacher", "model": weights_hash(self.model), "precision": str(self._dtype())}
        adapter = self._runner.adapter
        if adapter is None:
            return plain
        return plain | {"adapter": [function_identity(adapter.inputs), function_identity(adapter.outputs)]}

    def to(self, device: torch.device | str) -> LiveTeacher:
        """Move the model."""
        self._device = torch.device(device)
        self.model.to(self._device)
        return self

    def close(self) -> None:
        """Remove taps from the model."""
        self._runner.close()

    def models(self) -> Iterator[nn.Module]:
        """Yield the one model."""
        yield self.model


def as_teacher(teacher: TeacherSource | nn.Module) -> TeacherSource:
    """Return a teacher source; a bare model becomes a `LiveTeacher`.

    Raises:
        ConfigError: if it is neither.

    """
    if isinstance(teacher, TeacherSource):
        return teacher
    if isinstance(teacher, nn.Module):
        return LiveTeacher(teacher)
    raise ConfigError(f"Expected the teacher to be a teacher source or an nn.Module but got {type(teacher).__name__}.")


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """Convert floating inputs (images, embeddings), in whatever collection they are."""
    return apply_to_collection(batch, Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x)


def _device_of(batch: Any) -> torch.device | None:
    if isinstance(batch, Tensor):
        return batch.device
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((device for device in map(_device_of, values) if device is not None), None)
