"""What every teacher source has in common: it turns batches into the features that were requested at setup."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kd_lightning.core.errors import AddressError, hint
from kd_lightning.core.types import Batch, FeatureInfo, Features, ModelInfo
from kd_lightning.teachers.identity import weights_hash


class TeacherSource(ABC):
    """Gives teacher features for a batch, wherever they come from: a model, several, a cache, a table, a server.

    A source of your own is a class with three members. At setup, `info` is read to check addresses and to size
    projections, then `ask` is called once with all addresses of the objective; after that, each call gets a batch as
    the loader made it (on the student's device) and returns those features, detached, on the device of the batch. The
    other methods have defaults that fit a source without models; one that runs models overrides `models`, `to` and
    `close`, and takes its `info` from `kd_lightning.features.model_info(model)`.

    It is a plain class on purpose, not an `nn.Module`: a Trainer does not see it, so a teacher is in no checkpoint,
    optimizer or gradient bucket.

    Example:
        >>> import kd_lightning as kd
        >>> from kd_lightning.core.types import FeatureInfo
        >>> class Table(kd.TeacherSource):
        ...     def __init__(self, logits):  # (N, C), a row for each sample_id
        ...         self.logits = logits
        ...
        ...     @property
        ...     def info(self):
        ...         return DeclaredInfo({"logits": FeatureInfo("classes", self.logits.shape[1])})
        ...
        ...     def ask(self, addresses):
        ...         self.info.check(addresses)
        ...
        ...     def __call__(self, batch):
        ...         ids = batch["sample_id"]
        ...         return {"logits": self.logits.to(ids.device)[ids]}
        >>> objective = kd.Objective({"mse": kd.Term(kd.Match("logits", "logits"), nn.MSELoss())})
        >>> module = kd.DistillationModule(nn.Linear(4, 3), Table(torch.zeros(10, 3)), objective)
        >>> batch = {"input": torch.zeros(2, 4), "sample_id": torch.tensor([7, 1])}
        >>> module.teacher(batch)["logits"].shape
        torch.Size([2, 3])

    """

    follows_student: bool = False
    """Whether it is made of the student that it teaches, and is attached to it: there is nothing to cache or evaluate
    before."""

    sees_features: bool = False
    """Whether it teaches with what the student computed on the same batch, which `see` is given first."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """What can be requested: the layers there are, and what each feature is (`FeatureInfo`)."""

    @abstractmethod
    def ask(self, addresses: Sequence[str]) -> None:
        """Set which features every later call returns.

        Raises:
            AddressError: if this source does not have an address.

        """

    @abstractmethod
    def __call__(self, batch: Batch) -> Features:
        """Return the features of one batch, without gradient."""

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch after work that is done before it is moved to the device, such as reading from disk."""
        return batch

    def identity(self) -> dict[str, Any]:
        """Return what decides this source's features, for fingerprints: by default, a hash of every model it runs."""
        return {"kind": type(self).__name__, "models": [weights_hash(model) for model in self.models()]}

    def to(self, device: torch.device | str) -> TeacherSource:
        """Move models to the student's device."""
        return self

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Remove taps from all models."""

    def models(self) -> Iterator[nn.Module]:
        """Yield the models this source runs; none for a cache."""
        return iter(())

    # -- of sources that change in training --------------------------------------------------------------------------

    def attach(self, student: nn.Module) -> None:  # noqa: B027 - most sources know nothing of the student
        """Know the student that is taught: called before anything else where `follows_student` is true."""

    def see(self, features: Features) -> None:  # noqa: B027
        """Take the student's features of the batch that comes next, where `sees_features` is true."""

    def begin(self, student: nn.Module) -> None:  # noqa: B027
        """Prepare for training, with the weights that the student begins with or goes on with."""

    def after_step(self, student: nn.Module) -> None:  # noqa: B027
        """Follow the student after a step of its optimizer; gradients that are accumulated are one step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training, to be saved as `kd_teacher` in checkpoints; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Load what `state_dict` returned."""


class DeclaredInfo(ModelInfo):
    """The `info` of a source without a live model: a list of its features.

    Args:
        features: what is known of each, by address.
        stacks: number of layers by stack prefix (`""` where there is only one).
        owner: the subject of error messages.

    Example:
        >>> info = DeclaredInfo({"logits": FeatureInfo("classes", 3)})
        >>> info.width("logits")
        3

    """

    def __init__(
        self,
        features: Mapping[str, FeatureInfo],
        stacks: Mapping[str, int] | None = None,
        owner: str = "This teacher source",
    ) -> None:
        self._features, self._stacks, self._owner = dict(features), dict(stacks or {}), owner

    def layers(self, stack: str = "") -> int:
        """Return the number of layers of a stack.

        Raises:
            AddressError: if there is no feature of that stack.

        """
        if stack not in self._stacks:
            what = f"layers of '{stack}'" if stack else "layers"
            raise AddressError(f"{self._owner} holds no {what}, only {', '.join(self._features)}.")
        return self._stacks[stack]

    def feature(self, address: str) -> FeatureInfo:
        """Return what is known of a feature.

        Raises:
            AddressError: if there is no such feature.

        """
        if address not in self._features:
            raise AddressError(f"{self._owner} does not hold '{address}'. {hint(address, self._features)}")
        return self._features[address]

    def check(self, addresses: Sequence[str]) -> None:
        """Raise `AddressError` for the first address that is not there."""
        for address in addresses:
            self.feature(address)
