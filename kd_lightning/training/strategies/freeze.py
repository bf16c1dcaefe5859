"""Freezing: parts of the student that are not trained, and that run in eval mode while the others are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.modes import in_eval_mode
from kd_lightning.features.structure import tree
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.strategies.base import Strategy


class Freeze(Strategy):
    """Trains a part of the student: the rest has no gradient, and runs in eval mode in training steps.

    Eval mode, because a frozen part often teaches (`SelfTeacher`), and its dropout would be noise in the targets, as it
    is in FastBERT's own code (Liu et al. 2020, 2004.02178); batch norms keep their statistics. Between steps the modes
    are what they were. Parameters stay frozen.

    Args:
        modules: module paths of what is frozen; None: the whole student.
        but: module paths of what is trained all the same.

    Raises:
        ConfigError: in `prepare`, for a path that the student does not have; names the closest ones.

    Example:
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
        >>> strategy = Freeze(but=["2"])
        >>> strategy.prepare(student, None)
        >>> [name for name, p in student.named_parameters() if p.requires_grad]
        ['2.weight', '2.bias']
        >>> with strategy.applied(progress=0.0, seed=0):
        ...     [module.training for module in student]
        [False, False, True]

    """

    needs_teacher = False

    def __init__(self, modules: Sequence[str] | str | None = None, but: Sequence[str] | str | None = ()) -> None:
        self.modules = None if modules is None else _listed("modules", modules)
        self.but = _listed("but", () if but is None else but)
        self._frozen: list[nn.Module] = []

    def __repr__(self) -> str:
        return f"Freeze(modules={self.modules}, but={self.but})"

    def prepare(self, student: nn.Module, teacher: TeacherSource | None, addresses: Sequence[str] = ()) -> None:
        """Find the modules, and freeze their parameters.

        Raises:
            ConfigError: if the student has no such module, or nothing is left to train.

        """
        nodes = tree(student)
        for path in (*(self.modules or ()), *self.but):
            if path not in nodes:
                name = type(student).__name__
                raise ConfigError(
                    f"There is no module '{path}' in this {name} to freeze. {hint(path, filter(None, nodes))}"
                )
        within = [path for path in nodes if self.modules is None or _is_within(path, self.modules)]
        trained = {id(node.module) for path, node in nodes.items() if path not in within or _is_within(path, self.but)}
        self._frozen = [nodes[path].module for path in within if id(nodes[path].module) not in trained]
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in student.parameters()):
            raise ConfigError(f"{self} leaves nothing to train: give `but` what is trained, such as ['classifier'].")

    def applied(self, progress: float, seed: int) -> AbstractContextManager[None]:
        """Return a context in which what is frozen is in eval mode."""
        return in_eval_mode(self._frozen)


def _listed(argument: str, paths: Sequence[str] | str) -> list[str]:
    listed = [paths] if isinstance(paths, str) else list(paths) if isinstance(paths, Sequence) else [paths]
    if not all(isinstance(path, str) and path for path in listed):
        raise ConfigError(
            f"Expected argument `{argument}` of Freeze to be paths of modules, such as ['classifier'], but got "
            f"{paths!r}."
        )
    return listed


def _is_within(path: str, modules: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{module}.") for module in modules)
