"""What the stages of a plan change of the run's configuration, and the whole configuration that each of them has.

A stage's entry in the plan holds the arguments of its class and, under the names of groups and root keys, what it
changes: `plan.features.trainer.max_epochs=3`. Interpolations there mean the run's values; what the run's configuration
derives from a changed value, as a term's temperature from `temperature`, follows the change. `terms` names those of the
objective that a stage has, `without` those that it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.core.errors import ConfigError, hint

CHANGED = (
    "data", "task", "teacher", "student", "objective", "strategy", "curriculum", "optimizer", "scheduler", "trainer",
    "callbacks", "logger", "temperature", "seed",
)  # fmt: skip
"""What a stage may change of the run's configuration."""

INHERITED = ("root", "limit", "cache_dir", "num_workers")
"""Arguments of the run's data that count for other data too, where that leaves them null."""

FIND_UNUSED = "ddp_find_unused_parameters_true"
"""The Trainer's name for DDP that looks for parameters without gradient in every step."""

REFERRED = ("student", "teacher")
"""Keys that may also name a stage instead, whose student goes on or whose models teach: arguments of the stage then."""

Node = dict[str, Any]


def split(node: Mapping[str, Any]) -> tuple[Node, Node]:
    """Return a stage's arguments and its changes.

    Example:
        >>> split({"_target_": "Distil", "student": "features", "trainer": {"max_epochs": 3}})
        ({'_target_': 'Distil', 'student': 'features'}, {'trainer': {'max_epochs': 3}})

    """
    changes = {key: node[key] for key in node if key in CHANGED and not _refers(key, node[key])}
    return {key: value for key, value in node.items() if key not in changes}, changes


def _refers(key: str, value: Any) -> bool:
    return key in REFERRED and isinstance(value, str | list)


def settle_plan(cfg: DictConfig) -> None:
    """Make what stages change definite: resolved, with all that follows from it, and the baseline of equal length.

    Raises:
        ConfigError: for an entry that is no mapping.

    """
    for name in list(cfg.plan):
        if cfg.plan[name] is not None and not isinstance(cfg.plan[name], DictConfig):
            raise ConfigError(f"'plan.{name}' cannot be {cfg.plan[name]!r}: it is a mapping with a _target_, or null.")
    _lengthen_baseline(cfg)
    resolved = _plain(cfg)
    for name, node, changes in list(_changing(cfg)):
        own = _plain(_changed(cfg, changes))
        if own["trainer"].get("strategy") == "ddp" and skips_parameters(own):
            own["trainer"]["strategy"] = FIND_UNUSED
        explicit = {key: _difference(resolved[key], own[key]) for key in CHANGED if own[key] != resolved[key]}
        with open_dict(cfg):
            cfg.plan[name] = node | {key: value for key, value in explicit.items() if key not in node}


def skips_parameters(own: Node) -> bool:
    """Return whether trainable parameters have no gradient in some steps, which DDP treats as an error.

    Args:
        own: the configuration of a run or of a stage, plain.

    """
    target = (own.get("strategy") or {}).get("_target_")
    try:
        skipped = target is not None and get_object(target).skips_parameters
    except Exception:  # what is wrong with the target is said where it is built
        skipped = False
    return skipped or not _trains_the_head(own)


def _trains_the_head(own: Node) -> bool:
    """Return whether a term that counts reads the task's outputs; the head of a model has no gradient otherwise."""
    outputs = own["task"].get("outputs", "logits")
    outputs = outputs if isinstance(outputs, list) else [outputs]
    terms = [term for term in (own["objective"].get("terms") or {}).values() if term and term.get("weight", 1.0)]
    sides = [side for term in terms if (side := (term.get("match") or {}).get("student")) is not None]
    return any(address in outputs for side in sides for address in (side if isinstance(side, list) else [side]))


def stage_configs(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return a whole configuration for each stage that changes something, without a plan of its own."""
    return {name: _changed(cfg, changes) for name, _, changes in _changing(cfg)}


def _changing(cfg: DictConfig) -> Iterator[tuple[str, Node, Node]]:
    students: dict[Any, Any] = {}
    for name, entry in cfg.plan.items():
        arguments, changes = split(_with_terms(cfg, str(name), _plain(entry))) if entry is not None else ({}, {})
        if (student := changes.get("student") or students.get(arguments.get("student"))) is not None:
            changes["student"] = students[name] = student  # one that goes on is what it was
        if changes:
            yield str(name), arguments, changes


def _with_terms(cfg: DictConfig, name: str, node: Node) -> Node:
    """Return a stage whose `terms` or `without` are changes of its objective: null for each term that it has not.

    Raises:
        ConfigError: for a name that is no term's, or no term that is left.

    """
    there = _merged(_plain(cfg.objective), node.get("objective") or {}).get("terms") or {}
    given = {key: node.get(key) for key in ("terms", "without") if node.get(key) is not None}
    for key, names in given.items():
        for term in names if isinstance(names, list) else [names]:
            if term not in there:
                raise ConfigError(
                    f"'plan.{name}.{key}' names '{term}', which is no term here. {hint(str(term), there)}"
                )
    only, without = given.get("terms") or list(there), given.get("without") or []
    kept = [term for term in there if term in only and term not in without and there[term] is not None]
    if given and not kept:
        raise ConfigError(
            f"The stage '{name}' has none of the objective's terms ({', '.join(there)}): features are matched by "
            f"match=NAME, and others chosen by plan.{name}.terms=[…]."
        )
    node = {key: value for key, value in node.items() if key not in ("terms", "without")}
    off = {term: None for term in there if term not in kept} if given else {}
    return _merged(node, {"objective": {"terms": off}}) if off else node


def _changed(cfg: DictConfig, changes: Node) -> DictConfig:
    """Return the run's configuration with changes."""
    whole: Any = OmegaConf.to_container(cfg, resolve=False)
    if (data := changes.get("data")) is not None and _is_other(whole["data"], data):
        changes = {**changes, "data": data | {key: cfg.data.get(key) for key in INHERITED if data.get(key, 0) is None}}
    return OmegaConf.create(_merged({**whole, "plan": {}}, changes))


def _merged(base: Any, changes: Any) -> Any:
    """Return nested settings with changes; a mapping that builds something else replaces the one that was there.

    Example:
        >>> _merged({"a": {"_target_": "x", "b": 1}, "c": {"d": 2}}, {"a": {"_target_": "y"}, "c": {"e": 3}})
        {'a': {'_target_': 'y'}, 'c': {'d': 2, 'e': 3}}

    """
    if not isinstance(base, dict) or not isinstance(changes, dict) or _is_other(base, changes):
        return changes
    return base | {key: _merged(base.get(key), value) for key, value in changes.items()}


def _is_other(base: Node, value: Node) -> bool:
    return "_target_" in value and value["_target_"] != base.get("_target_")


def _difference(base: Any, changed: Any) -> Any:
    """Return what merged into `base` makes `changed`.

    Example:
        >>> _difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
        {'a': {'c': 3}}

    """
    if not isinstance(base, dict) or not isinstance(changed, dict) or _is_other(base, changed):
        return changed
    return {key: _difference(base.get(key), value) for key, value in changed.items() if base.get(key, _OTHER) != value}


_OTHER = object()


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)


# -- the baseline ------------------------------------------------------------------------------------------------------


def _lengthen_baseline(cfg: DictConfig) -> None:
    """Give a baseline the summed epochs, or steps, of all stages that its distilled counterpart goes through.

    Stages on other data do not count, and a length that was typed stays.
    """
    from kd_lightning.pipeline.distil import Baseline  # takes long to import

    for name, entry in cfg.plan.items():
        if not isinstance(entry, DictConfig) or not _is_class(entry.get("_target_"), Baseline):
            continue
        nodes = {key: _plain(node) for key, node in cfg.plan.items() if node is not None}
        chain = [node for node in _chain(nodes, "student") if "data" not in node]
        typed = nodes[str(name)].get("trainer") or {}
        length = _summed(_plain(cfg.trainer), chain)
        differs = any(cfg.trainer.get(key) != count for key, count in length.items())
        if differs and not {"max_epochs", "max_steps"} & typed.keys():
            with open_dict(cfg):
                cfg.plan[name].trainer = typed | length


def _is_class(target: Any, wanted: type) -> bool:
    try:
        found = get_object(str(target))
    except Exception:  # checked, and told of, with all other targets
        return False
    return isinstance(found, type) and issubclass(found, wanted)


def _chain(nodes: Mapping[str, Node], last: str) -> list[Node]:
    """Return the stages that a student goes through up to one of them, that one first."""
    found: list[Node] = []
    name: Any = last
    while isinstance(name, str) and name in nodes and nodes[name] not in found:
        found.append(nodes[name])
        name = nodes[name].get("student")
    return found


def _summed(trainer: Node, chain: list[Node]) -> Node:
    lengths = [trainer | (node.get("trainer") or {}) for node in chain]
    for key in ("max_steps", "max_epochs"):
        counts = [count for own in lengths if isinstance(count := own.get(key), int) and count >= 0]
        if counts and len(counts) == len(lengths):
            return {key: sum(counts)}
    return {}


def check_references(plan: Mapping[str, Any]) -> None:
    """Raise an error for stages that go on from, or are taught by, what is no stage before them, or off.

    Raises:
        ConfigError: naming the stage, the key, and the nearest one.

    """
    before: list[str] = []
    for name, node in plan.items():
        if node is None:
            continue
        for key, own in (("student", "fresh"), ("teacher", "original")):
            value = node.get(key)
            for other in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
                if other != own and other not in before:
                    raise ConfigError(
                        f"'plan.{name}.{key}' is '{other}', and must be a stage before it, or {own}. "
                        f"{hint(str(other), [*before, own])}"
                    )
        if node.get("enabled", True):
            before.append(str(name))
