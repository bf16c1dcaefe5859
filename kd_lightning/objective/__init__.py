"""What the student is trained for: matches, terms, match schemes, and their weighted sum."""

from kd_lightning.objective.match import Match
from kd_lightning.objective.objective import Objective
from kd_lightning.objective.scheme import MatchScheme
from kd_lightning.objective.term import Term

__all__ = ["Match", "MatchScheme", "Objective", "Term"]
