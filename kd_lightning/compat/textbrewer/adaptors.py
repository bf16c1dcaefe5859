"""TextBrewer's adaptors, `(batch, model outputs) -> {"logits": …, "hidden": …}`, as adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.batch import BOOKKEEPING
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, FeatureInfo, Features, RowInfo
from kd_lightning.functional.precision import widen
from kd_lightning.losses.base import WrappedLoss

Adaptor: TypeAlias = Callable[[Any, Any], Mapping[str, Any]]

MASK = "inputs_mask"


def adapter(adaptor: Adaptor) -> Adapter:
    """Make an adapter of a TextBrewer adaptor.

    Models are called as TextBrewer calls them: with all of a mapping as keywords, all of a tuple as positions. What the
    adaptor returns can be addressed: `logits` is the first of its logits, `logits_0`, `logits_1`, … are all of them,
    `hidden_0`, … and `attention_0`, … the entries of those lists, `loss` the sum of the means of its `losses`.
    `objective(config, features="adaptors")` finds masks and labels there too.

    It remembers the last batch: make one for each model.

    Args:
        adaptor: `(batch, model outputs) -> {"logits": …}`, with any of `hidden`, `attention`, `losses`, `labels`,
            `inputs_mask`, `logits_mask`.

    Example:
        >>> made = adapter(lambda batch, outputs: {"logits": outputs[0], "losses": outputs[1:]})
        >>> made.inputs({"x": torch.zeros(2, 3)}).keys()
        dict_keys(['x'])
        >>> found = made.outputs((torch.zeros(2, 3), torch.tensor([1.0, 3.0])))
        >>> found["logits"].shape, found["loss"]
        (torch.Size([2, 3]), tensor(2.))

    """
    remembering = _Remembering(adaptor)
    return Adapter(remembering.inputs, remembering.outputs)


class _Remembering:
    """Calls an adaptor with the batch that went in before the outputs came."""

    def __init__(self, adaptor: Adaptor) -> None:
        self.adaptor = adaptor
        self._batch: Any = None
        self._last: tuple[Any, Features] | None = None

    def inputs(self, batch: Batch) -> Any:
        self._batch, self._last = batch, None
        if isinstance(batch, Mapping):
            return {key: value for key, value in batch.items() if key not in BOOKKEEPING}
        return tuple(batch)

    def outputs(self, outputs: Any) -> Features:
        """Ask the adaptor once for all the fields of one pass."""
        if self._last is None or self._last[0] is not outputs:
            self._last = (outputs, _fields(self.adaptor(self._batch, outputs)))
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batch": None, "_last": None}


def _fields(results: Mapping[str, Any]) -> Features:
    """Name every tensor an adaptor returns; a mask or label it does not return is an empty tensor."""
    if not isinstance(results, Mapping):
        raise ConfigError(f"Expected an adaptor to return a dict but got {type(results).__name__}.")
    lists = {key: _listed(results.get(key)) for key in ("logits", "hidden", "attention", "labels", "logits_mask")}
    if len(lists["logits_mask"]) == 1:  # one mask serves all logits
        lists["logits_mask"] *= len(lists["logits"])
    fields = {f"{key}_{i}": x for key, found in lists.items() for i, x in enumerate(found)}
    nothing = {f"{key}_{i}": torch.empty(0) for key in ("logits_mask", "labels") for i in range(len(lists["logits"]))}
    fields = {**nothing, **fields, MASK: results.get(MASK, torch.empty(0))}
    if lists["logits"]:
        fields["logits"] = lists["logits"][0]
    if "losses" in results:
        fields["loss"] = torch.stack([loss.mean() for loss in _listed(results["losses"])]).sum()
    return fields


def _listed(value: Any) -> list[Tensor]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


class AdaptedLoss(WrappedLoss):
    """A loss that takes its mask and labels from what the student's adaptor returned, behind the student's features.

    Args:
        loss: `(student, teacher, mask=…)`, and with two extras `labels=…` too.
        extras: how many of the student's tensors are not features: the mask, or mask and labels.
        projection: applied to the features, not to the extras.

    Example:
        >>> loss = AdaptedLoss(nn.MSELoss(), extras=1)
        >>> loss((torch.ones(2, 3), torch.empty(0)), torch.zeros(2, 3))
        tensor(1.)

    """

    def __init__(self, loss: nn.Module, extras: int, projection: nn.Module | None = None) -> None:
        super().__init__(loss)
        self.equal_widths = self.per_address = False  # the mask and the labels are among the features
        self.extras = extras
        self.projection = projection

    def bind(
        self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...], rows: RowInfo | None = None
    ) -> None:
        """Bind the loss to the features alone."""
        super().bind(student[: -self.extras], teacher, rows)

    def forward(self, student: tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Compare the student's features with the teacher's."""
        features, given = self._split(student)
        return self.compare(features, teacher, **given)

    def count(self, student: Any, teacher: Any, **given: Any) -> Tensor | None:
        """Return what the loss counts."""
        features, own = self._split(student)
        return super().count(features, teacher, **own)

    def _split(self, student: tuple[Tensor, ...]) -> tuple[Tensor | tuple[Tensor, ...], dict[str, Tensor]]:
        features = tuple(self._project(x) for x in student[: -self.extras])
        extras = zip(("mask", "labels"), student[-self.extras :], strict=False)
        given = {name: x for name, x in extras if x.numel()}
        if features[0].dim() == 2:
            given.pop("mask", None)  # TextBrewer takes no notice of a mask over two-dimensional logits
        return features[0] if len(features) == 1 else features, given

    def _project(self, x: Tensor) -> Tensor:
        if self.projection is None:
            return x
        weight = next(self.projection.parameters())
        return widen(self.projection(x.to(weight.dtype)))
