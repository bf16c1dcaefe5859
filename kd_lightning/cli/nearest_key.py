"""What was meant by a key that is not there: the nearest ones, or what to type to add it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher, get_close_matches
from typing import Any, TypeAlias

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig

from kd_lightning.cli.checks import Arguments, arguments_of
from kd_lightning.core.errors import closest, hint

Known: TypeAlias = Callable[[], list[str]] | None
"""Returns the dotted keys and the config groups that can be typed."""


def nearest_key(key: str, parent: Any, known: Known) -> str:
    """Return the closest keys: of the same name elsewhere, then beside the wrong one, then anywhere."""
    everything = known() if known is not None else []
    prefix, _, leaf = key.rpartition(".")
    takes = _takes(parent) if isinstance(parent, DictConfig) else None
    if isinstance(parent, DictConfig) and (added := _to_add(key, parent, takes)):
        return added
    if key in everything:
        return "It is there by default, but not with everything else that was typed."
    inside = list(parent) if isinstance(parent, DictConfig) and not parent._is_none() else []
    beside = [f"{prefix}.{name}".lstrip(".") for name in inside if name != "hydra"]
    beside += [other for other in everything if other.rpartition(".")[0] == prefix]
    same = [other for other in everything if other.rpartition(".")[-1] == leaf]
    if same:
        return f"Closest: {', '.join(same[:3])}."
    if takes is not None and (like := _arguments_like(key, parent, takes)):
        return f"Closest: {like}."
    near = closest(leaf, [other.rpartition(".")[-1] for other in beside])
    near_keys = dict.fromkeys(f"{prefix}.{name}".lstrip(".") for name in near)
    return f"Closest: {', '.join(near_keys)}." if near else hint(key, list(dict.fromkeys([*beside, *everything])))


def _to_add(key: str, parent: DictConfig, takes: Arguments | None) -> str | None:
    """Return what to type where a node takes more than it lists: an argument, a field, or a name in a mapping."""
    leaf, add = key.rpartition(".")[-1], f"Type +{key}=VALUE to add it."
    if _is_open(parent):
        return _split(key) if parent._key() == "splits" else add
    if takes is None or leaf in takes.named:
        return None if takes is None else add
    near = _arguments_like(key, parent, takes) if takes.anything else ""
    return f"Closest: {near}. Or type +{key}=VALUE to add it." if near else add if takes.anything else None


def _split(key: str) -> str:
    from kd_lightning.data.base import SPLITS  # data modules take long to import, and most commands need no advice

    prefix, _, leaf = key.rpartition(".")
    near = closest(leaf, SPLITS, n=1) or list(SPLITS)
    return f"{'Type' if near == [leaf] else 'Closest:'} {', '.join(f'+{prefix}.{name}=VALUE' for name in near)}."


def _arguments_like(key: str, node: DictConfig, takes: Arguments) -> str:
    """Return what looks like a key among what a node lists and its target takes, those not listed with a plus."""
    prefix, _, leaf = key.rpartition(".")
    listed = [str(name) for name in node if not str(name).startswith("_")]
    others = [name for name in takes.named if name not in listed]
    near = [f"{prefix}.{name}" for name in closest(leaf, listed)]
    near += [f"+{prefix}.{name}" for name in get_close_matches(leaf, others, cutoff=0.75)]
    return ", ".join(sorted(near, key=lambda shown: -_likeness(leaf, shown.rpartition(".")[-1]))[:3])


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _takes(node: DictConfig) -> Arguments | None:
    """Return what a node's target takes; None where it has none, or one that does not say."""
    target = None if node._is_none() else node.get("_target_")
    try:
        return arguments_of(get_object(target)) if isinstance(target, str) else None
    except (HydraException, TypeError, ValueError):
        return None


def _is_open(node: DictConfig) -> bool:
    """Tell whether a node is an argument that is a mapping of any names, such as `splits` of a data module."""
    above, name = node._get_parent(), node._key()
    takes = _takes(above) if isinstance(above, DictConfig) else None
    argument = takes.named.get(str(name)) if takes is not None else None
    return argument is not None and str(argument.annotation).startswith("Mapping[")
