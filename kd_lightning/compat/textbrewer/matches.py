"""TextBrewer's intermediate matches: which loss, which layers, which projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from kd_lightning import losses
from kd_lightning.compat.textbrewer import losses as theirs
from kd_lightning.compat.textbrewer.config import read
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.objective.projections import build_projection

MATCH: dict[str, Any] = {"layer_T": None, "layer_S": None, "feature": None, "loss": None, "weight": None, "proj": None}

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "attention_mse_sum": theirs.AttentionMSESum,
    "attention_mse": theirs.AttentionMSE,
    "attention_ce_mean": theirs.AttentionCEMean,
    "attention_ce": theirs.AttentionCE,
    "hidden_mse": losses.HiddenMSE,
    "cos": losses.HiddenCosine,
    "pkd": theirs.PKD,
    "gram": losses.FSP,
    "fsp": losses.FSP,
    "mmd": theirs.NST,
    "nst": theirs.NST,
}

PAIRS = ("gram", "fsp", "mmd", "nst")
"""Losses over pairs of layers."""


class IntermediateMatch(NamedTuple):
    """One entry of `intermediate_matches`, checked and built."""

    name: str
    feature: str
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    loss: nn.Module
    weight: float
    projection: nn.Module | None
    projection_lr: float | None


def intermediate_match(given: Any) -> IntermediateMatch:
    """Read one entry of `intermediate_matches`.

    Args:
        given: a dict, or an object with such attributes.

    Raises:
        ConfigError: for a missing or unknown entry, or layers that do not suit the loss.

    Example:
        >>> entry = {"layer_T": 10, "layer_S": 3, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
        >>> intermediate_match(entry).name
        'hidden_mse_3_10'

    """
    entry = read(given, MATCH, "An intermediate match")
    missing = next((key for key, value in entry.items() if value is None and key != "proj"), None)
    if missing is not None:
        raise ConfigError(f"An intermediate match needs '{missing}', but got {given!r}.")
    if entry["loss"] not in LOSSES:
        raise ConfigError(f"Unknown match loss {entry['loss']!r}. {hint(str(entry['loss']), LOSSES)}")
    if entry["feature"] not in ("hidden", "attention"):
        raise ConfigError(f"Expected a match's feature to be 'hidden' or 'attention' but got {entry['feature']!r}.")
    student, teacher = (_layers(entry[key], entry["loss"]) for key in ("layer_S", "layer_T"))
    name = "_".join(map(str, (entry["loss"], *student, *teacher)))
    projection, lr = projection_of(entry["proj"])
    loss = LOSSES[entry["loss"]]()
    return IntermediateMatch(name, entry["feature"], student, teacher, loss, float(entry["weight"]), projection, lr)


def projection_of(proj: Sequence[Any] | None) -> tuple[nn.Module | None, float | None]:
    """Build a projection from `[kind, student width, teacher width]` or the same with `{"lr": …}`, and its rate.

    Its weights start as TextBrewer's do: normal with a deviation of 0.02, and no bias.

    Raises:
        ConfigError: for another form, or other options than a learning rate.

    Example:
        >>> projection_of(["linear", 312, 768, {"lr": 1e-3}])
        (Linear(in_features=312, out_features=768, bias=True), 0.001)

    """
    if not proj:
        return None, None
    kind, student, teacher, options = _parts(proj)
    other = next((key for key in options if key != "lr"), None)
    if other is not None:
        raise ConfigError(
            f"The option '{other}' of the projection {list(proj)} has no counterpart, only 'lr' has. Give "
            "DistillationModule an optimizer that makes its own groups."
        )
    projection = build_projection(kind, student, teacher)
    for module in projection.modules() if projection is not None else ():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return projection, options.get("lr")


def _parts(proj: Sequence[Any]) -> tuple[Any, int, int, Mapping[str, Any]]:
    if not isinstance(proj, str) and len(proj) in (3, 4):
        kind, student, teacher, options = [*proj, {}][:4]
        if isinstance(student, int) and isinstance(teacher, int) and isinstance(options, Mapping):
            return kind, student, teacher, options
    raise ConfigError(f"Expected a projection to be ['linear', dim_S, dim_T] or with {{'lr': …}} but got {proj!r}.")


def _layers(layers: Any, loss: str) -> tuple[int, ...]:
    several = isinstance(layers, Sequence) and not isinstance(layers, str)
    found = tuple(layers) if several else (layers,)
    if several != (loss in PAIRS) or (several and len(found) != 2):
        wanted = "two layers, such as [0, 3]," if loss in PAIRS else "one layer"
        raise ConfigError(f"The match loss '{loss}' compares {wanted} on each side, but got {layers!r}.")
    if not all(isinstance(layer, int) and layer >= 0 for layer in found):
        raise ConfigError(f"Expected layers to be numbers from 0 on but got {layers!r}.")
    return found
