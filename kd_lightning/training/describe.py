"""One-line descriptions of teachers and objectives, for `repr`."""

from __future__ import annotations

from torch import nn

from kd_lightning.objective import Objective
from kd_lightning.teachers import TeacherSource


def describe_teacher(teacher: TeacherSource | nn.Module | None) -> str:
    """Return a teacher's class, and for a source the classes of the models it runs.

    Example:
        >>> from kd_lightning.teachers import LiveTeacher
        >>> describe_teacher(LiveTeacher(nn.Linear(2, 2))), describe_teacher(nn.Linear(2, 2)), describe_teacher(None)
        ('LiveTeacher(Linear)', 'Linear', 'None')

    """
    if not isinstance(teacher, TeacherSource):
        return type(teacher).__name__ if teacher is not None else "None"
    return f"{type(teacher).__name__}({', '.join(type(model).__name__ for model in teacher.models())})"


def describe_terms(objective: Objective) -> str:
    """Return an objective's terms and match schemes, as declared, with their base weights.

    Example:
        >>> from kd_lightning import Match, MatchScheme, Term
        >>> terms = {"soft": Term(Match("logits", "logits"), nn.MSELoss(), weight=0.5)}
        >>> describe_terms(Objective({**terms, "hidden": MatchScheme("hidden", nn.MSELoss())}))
        '{soft: 0.5, hidden: 1}'

    """
    return f"{{{', '.join(f'{name}: {term.weight:g}' for name, term in objective.declared.items())}}}"
