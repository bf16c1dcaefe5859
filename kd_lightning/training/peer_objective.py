"""An objective of one student among several: terms with a teacher become one for each of the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from kd_lightning.core.batch import is_batch_field
from kd_lightning.core.errors import ConfigError
from kd_lightning.objective import Match, Objective, Scheme, Term


def peer_objective(objective: Objective, others: Sequence[str]) -> Objective:
    """Return an objective in which each term that has a teacher is one per peer.

    Args:
        objective: whose losses are copied, so that each peer has its own.
        others: the peers' names.

    Raises:
        ConfigError: if it holds nothing to be learnt from a peer.

    """
    made: dict[str, Term | Scheme] = {}
    learnt = False
    for name, term in objective.declared.items():
        if isinstance(term, Term) and not term.teacher_addresses:
            made[name] = copy.deepcopy(term)
            continue
        learnt = True
        for other in others:
            made[f"{name}_{other}"] = _of_peer(term, other, len(others))
    if not learnt:
        raise ConfigError(
            "Peers teach each other by a term with a teacher's address, such as Match('logits', 'logits')."
        )
    return Objective(made)


def _of_peer(term: Term | Scheme, other: str, count: int) -> Term | Scheme:
    made = term.taught_by(other) if isinstance(term, Scheme) else copy.deepcopy(term)
    made.weight = term.weight / count
    if isinstance(made, Term):
        teacher = tuple(a if is_batch_field(a) else f"{other}/{a}" for a in made.match.teacher_addresses)
        made.match = Match(made.match.student_addresses, teacher)
    return made
