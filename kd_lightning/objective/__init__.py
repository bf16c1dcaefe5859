"""What the student is trained for: terms, match schemes, and their weighted sum."""

from kd_lightning.objective.objective import Objective
from kd_lightning.objective.scheme import MatchScheme
from kd_lightning.objective.term import Term

__all__ = ["MatchScheme", "Objective", "Term"]
