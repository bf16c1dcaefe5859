"""What the student is trained for: matches, terms, match schemes, and their weighted sum."""

from kd_lightning.objective.exit_scheme import ExitScheme
from kd_lightning.objective.match import Match
from kd_lightning.objective.objective import Objective
from kd_lightning.objective.scheme import MatchScheme, Scheme
from kd_lightning.objective.term import Term

__all__ = ["ExitScheme", "Match", "MatchScheme", "Objective", "Scheme", "Term"]
