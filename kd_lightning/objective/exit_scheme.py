"""One loss on all branches of a model from which rows may leave early."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

from torch import Tensor

from kd_lightning.core.arguments import check_finite_number
from kd_lightning.core.batch import is_batch_field
from kd_lightning.core.errors import AddressError, MatchError
from kd_lightning.core.types import ModelInfo, Schedule
from kd_lightning.objective.match import Match
from kd_lightning.objective.scheme import Scheme
from kd_lightning.objective.term import Term, one_line


class ExitScheme(Scheme):
    """One loss on the logits of every branch of a student with early exits, whatever its depth.

    In an objective it stands like a term; when the objective is bound to the models it becomes one term per branch,
    named `<scheme>_<layer>`: `exit.k` ← the target. FastBERT (Liu et al. 2020, 2004.02178) sums KL(p_last ‖ p_k) over
    all branches k at a temperature of 1, with `kd.SelfTeacher()`; any other teacher's logits can take their place.

    Args:
        loss: copied for each branch.
        target: what each branch learns from: the teacher's `logits`, or `labels`.
        weight: of each term.
        schedule: of each term's weight.

    Raises:
        ConfigError: if the weight is no finite number.

    Example:
        >>> from kd_lightning.losses import SoftTarget
        >>> scheme = ExitScheme(SoftTarget(temperature=1.0))
        >>> [str(match) for _, match in scheme.matches(branches=2)]
        ['exit.1 ← logits', 'exit.2 ← logits']

    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        target: str = "logits",
        weight: float = 1.0,
        schedule: Schedule | None = None,
    ) -> None:
        check_finite_number("weight", weight)
        self.loss = loss
        self.target = target
        self.weight, self.schedule = weight, schedule

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        options = {k: v for k, v in vars(self).items() if k != "loss" and v != parameters[k].default}
        parts = [one_line(self.loss), *(f"{k}={one_line(v)}" for k, v in options.items())]
        return f"ExitScheme({', '.join(parts)})"

    def matches(self, branches: int) -> list[tuple[int, Match]]:
        """Return `(layer, match)` for each branch."""
        return [(k, Match(f"exit.{k}", self.target)) for k in range(1, branches + 1)]

    def taught_by(self, teacher: str) -> ExitScheme:
        """Return a copy that learns from one of several teachers; from labels, as it did."""
        made = copy.deepcopy(self)
        made.target = self.target if is_batch_field(self.target) else f"{teacher}/{self.target}"
        return made

    def expand(self, name: str, student: ModelInfo, teacher: ModelInfo | None) -> dict[str, Term]:
        """Return the named terms for a student; they are not yet bound."""
        try:
            matches = self.matches(student.layers() - 1)
            student.check([match.student_addresses[0] for _, match in matches])
        except AddressError as error:
            raise MatchError(
                f"Exit scheme '{name}' needs a student with a branch behind every layer but the last, as "
                f"student=early_exit has them. {error}"
            ) from None
        return {
            f"{name}_{layer}": Term(match, copy.deepcopy(self.loss), self.weight, self.schedule)
            for layer, match in matches
        }
