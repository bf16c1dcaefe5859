"""From a TextBrewer `DistillationConfig` to an objective."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from torch import nn

from kd_lightning import losses
from kd_lightning.compat.textbrewer import losses as theirs
from kd_lightning.compat.textbrewer.adaptors import MASK, AdaptedLoss
from kd_lightning.compat.textbrewer.config import Config, read
from kd_lightning.compat.textbrewer.matches import IntermediateMatch, intermediate_match
from kd_lightning.compat.textbrewer.schedulers import sample_temperature, weight_schedule
from kd_lightning.core.errors import ConfigError
from kd_lightning.objective import Objective, Term
from kd_lightning.objective.match import Match

Features: TypeAlias = Literal["addresses", "adaptors"]

DISTILLATION: dict[str, Any] = {
    "temperature": 4,
    "temperature_scheduler": "none",
    "hard_label_weight": 0,
    "hard_label_weight_scheduler": "none",
    "kd_loss_type": "ce",
    "kd_loss_weight": 1,
    "kd_loss_weight_scheduler": "none",
    "probability_shift": False,
    "intermediate_matches": None,
    "is_caching_logits": False,
}
"""Every argument of a `DistillationConfig`, and its default."""


def objective(config: Config, logits: str | Sequence[str] = "logits", features: Features = "addresses") -> Objective:
    """Return what a TextBrewer configuration trains for.

    Numbers are TextBrewer's, for every loss and temperature, with two exceptions. Temperatures by sample (`flsw`,
    `cwsm`) stop at a floor of 0.1, where TextBrewer's turn negative. And where a weight has a scheduler, TextBrewer
    uses the weight for the first optimizer step only and puts the schedule in its place afterwards:
    `kd_loss_weight=0.5` with `linear_decay` is 1 − x. Here it is so from the start: weight 1 × schedule, and the weight
    beside a scheduler counts for nothing.

    Args:
        config: a `DistillationConfig` as a dict, the path of a JSON file, or an object with such attributes.
        logits: the logits' address, or several: `("start_logits", "end_logits")`, whose losses are summed; `()` for
            models without any.
        features: where matches find hidden states and maps. "addresses": in the models themselves; `layer_S=3` of
            `hidden` is `hidden.3`, and `layer_S=3` of `attention` is `attention.4`, as in the lists Transformers
            returns. Masks and labels come from the batch. "adaptors": in what adaptors return, masks and labels too;
            give both models `adapter(adaptor)`.

    Returns:
        Terms `logits` (or by address, where there are several), `hard`, and `<loss>_<layer_S>_<layer_T>`. The hard
        label term is the student's own loss, as TextBrewer's `losses` are, and is left out where its weight is zero.

    Raises:
        ConfigError: for arguments that are unknown or cannot be.

    Example:
        >>> match = {"layer_T": 10, "layer_S": 3, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
        >>> found = objective({"temperature": 8, "intermediate_matches": [match]})
        >>> {name: str(term.match) for name, term in found.named_terms().items()}
        {'logits': 'logits ← logits', 'hidden_mse_3_10': 'hidden.3 ← hidden.10'}

    """
    return Objective(terms(config, logits, features))


def terms(config: Config, logits: str | Sequence[str] = "logits", features: Features = "addresses") -> dict[str, Term]:
    """Return the terms of `objective`, to add others to: what TextBrewer calls custom matches.

    Example:
        >>> mine = Term(Match("classifier:in", "classifier:in"), losses.HiddenMSE())
        >>> sorted(Objective({**terms({"temperature": 8}), "mine": mine}).declared)
        ['logits', 'mine']

    """
    if features not in ("addresses", "adaptors"):
        raise ConfigError(f"Expected argument `features` to be 'addresses' or 'adaptors' but got {features!r}.")
    given = read(config, DISTILLATION, "DistillationConfig")
    if given["is_caching_logits"]:
        warnings.warn(
            "is_caching_logits has no counterpart: nothing is kept in memory. Put what the teacher says on disk, with "
            "TeacherCache.build, and give the module a CachedTeacher.",
            stacklevel=3,
        )
    logits = (logits,) if isinstance(logits, str) else tuple(logits)
    made = [*_logits_terms(given, logits, features), *_hard_term(given), *_match_terms(given, features)]
    return dict(_distinct(made))


def _logits_terms(given: dict[str, Any], logits: Sequence[str], features: Features) -> Iterator[tuple[str, Term]]:
    weight = _weight(given, "kd_loss_weight")
    for address in logits:
        loss = _logits_loss(given)
        if features == "addresses":
            yield address, Term(Match(address, address), loss, **weight)
        else:
            index = address.removeprefix("logits").removeprefix("_") or "0"
            extras = (f"logits_mask_{index}", *([f"labels_{index}"] if given["probability_shift"] else []))
            yield address, Term(Match((address, *extras), address), AdaptedLoss(loss, len(extras)), **weight)


def _logits_loss(given: dict[str, Any]) -> nn.Module:
    if given["kd_loss_type"] not in ("ce", "mse"):
        raise ConfigError(f"Expected argument `kd_loss_type` to be 'ce' or 'mse' but got {given['kd_loss_type']!r}.")
    kind = theirs.SoftCrossEntropy if given["kd_loss_type"] == "ce" else theirs.LogitMSE
    by_sample = sample_temperature(given["temperature_scheduler"])
    loss = kind(float(given["temperature"]), sample_temperature=by_sample)
    return theirs.ProbabilityShift(loss) if given["probability_shift"] else loss


def _hard_term(given: dict[str, Any]) -> Iterator[tuple[str, Term]]:
    weight = _weight(given, "hard_label_weight")
    if weight["weight"]:
        yield "hard", Term(Match("loss"), losses.Identity(), **weight)


def _match_terms(given: dict[str, Any], features: Features) -> Iterator[tuple[str, Term]]:
    for entry in given["intermediate_matches"] or ():
        match = intermediate_match(entry)
        yield match.name, _adapted_match(match) if features == "adaptors" else _addressed_match(match)


def _addressed_match(match: IntermediateMatch) -> Term:
    first = 1 if match.feature == "attention" else 0  # hidden.0 is the embeddings' output
    student, teacher = ([f"{match.feature}.{k + first}" for k in side] for side in (match.student, match.teacher))
    where = Match(_one_or_all(student), _one_or_all(teacher))
    return Term(where, match.loss, match.weight, projection=match.projection, projection_lr=match.projection_lr)


def _adapted_match(match: IntermediateMatch) -> Term:
    student, teacher = ([f"{match.feature}_{k}" for k in side] for side in (match.student, match.teacher))
    where = Match((*student, MASK), _one_or_all(teacher))
    return Term(where, AdaptedLoss(match.loss, 1, match.projection), match.weight, projection_lr=match.projection_lr)


def _one_or_all(addresses: list[str]) -> str | list[str]:
    return addresses[0] if len(addresses) == 1 else addresses


def _weight(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the weight and its schedule; where there is a schedule, it is all that TextBrewer uses."""
    schedule = weight_schedule(given[f"{name}_scheduler"])
    return {"weight": float(given[name]) if schedule is None else 1.0, "schedule": schedule}


def _distinct(made: list[tuple[str, Term]]) -> Iterator[tuple[str, Term]]:
    """Number the terms of one name, so that none is lost: TextBrewer adds up matches that are listed twice."""
    seen: dict[str, int] = {}
    for name, term in made:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}_again{seen[name]}"), term
