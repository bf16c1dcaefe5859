"""Teacher outputs that come with the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.batch import field
from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import Batch, FeatureInfo, Features, ModelInfo
from kd_lightning.features.addresses import address_kind, layer_address
from kd_lightning.features.structure import output_fields
from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.live import as_teacher

FIELD = "teacher_cache"

LISTS: dict[str, tuple[tuple[str, ...], int]] = {
    "hidden": (("hidden_states", "hidden"), 0),
    "attention": (("attentions", "attention"), 1),
}
"""Names of lists of hidden states and of attention maps, and which layer is first in them."""


class BatchTeacher(TeacherSource):
    """Reads features from the batch's field `teacher_cache`, and runs another teacher only where they are missing.

    The field holds a teacher's outputs for these rows: features by address, or a model's output, whose `hidden_states`
    and `attentions` are read as `hidden.k` and `attention.k`.

    Args:
        teacher: runs on batches without the field, or without a feature in it; None: those are an error.

    Example:
        >>> teacher = BatchTeacher()
        >>> teacher.ask(["logits", "hidden.1"])
        >>> cached = {"logits": torch.zeros(2, 3), "hidden_states": [torch.zeros(2, 5, 4), torch.ones(2, 5, 4)]}
        >>> {address: x.shape for address, x in teacher({"input_ids": None, "teacher_cache": cached}).items()}
        {'logits': torch.Size([2, 3]), 'hidden.1': torch.Size([2, 5, 4])}

    """

    def __init__(self, teacher: TeacherSource | nn.Module | None = None) -> None:
        self.teacher = as_teacher(teacher) if teacher is not None else None
        self._addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"BatchTeacher({'' if self.teacher is None else self.teacher})"

    @property
    def info(self) -> ModelInfo:
        """What can be requested: what the other teacher has; without one any address, of unknown width."""
        return self.teacher.info if self.teacher is not None else _Unknown()

    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns."""
        self._addresses = tuple(addresses)
        if self.teacher is not None:
            self.teacher.ask(addresses)

    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch.

        Raises:
            AddressError: if the batch does not have a feature and there is no other teacher.

        """
        outputs = field(batch, FIELD)
        fields = {} if outputs is None else output_fields(outputs)
        found = {address: x.detach() for address in self._addresses if (x := _read(fields, address)) is not None}
        missing = next((address for address in self._addresses if address not in found), None)
        if missing is None:
            return found
        if self.teacher is None:
            has = f"has {', '.join(map(str, fields))}" if fields else "is not there"
            raise AddressError(
                f"The batch's '{FIELD}' {has}, but '{missing}' is requested. Give BatchTeacher a model for it."
            )
        return {**self.teacher(batch), **found}

    def prepare(self, batch: Batch) -> Batch:
        """Let the other teacher prepare batches without the field."""
        return batch if self.teacher is None or field(batch, FIELD) is not None else self.teacher.prepare(batch)

    def identity(self) -> dict[str, Any]:
        """Return the identity of the other teacher; outputs in batches have none."""
        return {"kind": "BatchTeacher", "teacher": self.teacher.identity() if self.teacher is not None else None}

    def to(self, device: torch.device | str) -> BatchTeacher:
        """Move the other teacher."""
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    def close(self) -> None:
        """Remove taps from all models."""
        if self.teacher is not None:
            self.teacher.close()

    def models(self) -> Iterator[nn.Module]:
        """Yield the models of the other teacher."""
        return self.teacher.models() if self.teacher is not None else iter(())


def _read(fields: Mapping[str, Any], address: str) -> Tensor | None:
    if isinstance(fields.get(address), Tensor):
        return fields[address]
    parsed = layer_address(address)
    if parsed is None or parsed.stack or parsed.kind not in LISTS:
        return None
    names, first = LISTS[parsed.kind]
    found = next((fields[name] for name in names if isinstance(fields.get(name), list | tuple)), ())
    return found[parsed.index - first] if 0 <= parsed.index - first < len(found) else None


class _Unknown(ModelInfo):
    """The `info` of outputs in batches: they may have any address, and only the address itself tells its kind."""

    def layers(self, stack: str = "") -> int:
        raise AddressError("How many layers the teacher has is not known from batches; name the layers themselves.")

    def feature(self, address: str) -> FeatureInfo:
        return FeatureInfo(address_kind(address))

    def check(self, addresses: Sequence[str]) -> None:
        return None
