"""Checks of a composed configuration, before anything in it is built: keys, targets and their arguments, values."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_lightning.cli.configs import CONFIGS
from kd_lightning.cli.kinds import check_kind, types_of
from kd_lightning.cli.stages import CHANGED
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.pipeline.settings import MEAN, TEACHER_KEYS

HOLDERS = ("callbacks", "logger", "objective.terms", "plan", "task.metrics")
"""Places whose entries are all built: one without `_target_` would be dropped in silence."""

OWN: dict[str, Any] = {
    "_target_": str, "_partial_": bool, "_recursive_": bool, "_args_": list,
    "_convert_": Literal["none", "partial", "object", "all"],
}  # fmt: skip
"""Keys that tell Hydra how to call a target, which are no arguments, and what each can be."""


@dataclass(frozen=True)
class Arguments:
    """What can be given to a target by name.

    Args:
        named: its arguments by name; of a class that passes others on, those of the bases that get them, too.
        anything: whether it takes other names as well, as students take fields of their configuration.

    """

    named: Mapping[str, inspect.Parameter]
    anything: bool


def arguments_of(called: Any) -> Arguments:
    """Return what a class or function takes, through `**loading` and the like to the bases of a class.

    Raises:
        TypeError, ValueError: for what says nothing of its arguments, such as some classes written in C.

    Example:
        >>> class Base:
        ...     def __init__(self, seed=0): ...
        >>> class Derived(Base):
        ...     def __init__(self, size, **others): ...
        >>> found = arguments_of(Derived)
        >>> list(found.named), found.anything
        (['size', 'seed'], False)

    """
    named: dict[str, inspect.Parameter] = {}
    for made in _makers(called):
        own = inspect.signature(made).parameters
        named |= {name: p for name, p in own.items() if name not in named and p.kind not in _STARRED}
        if all(p.kind is not p.VAR_KEYWORD for p in own.values()):
            return Arguments(named, anything=False)
    return Arguments(named, anything=True)


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _makers(called: Any) -> Iterator[Any]:
    """Yield a function, or a class and those of its bases that have an `__init__` of their own, without `object`."""
    yield called
    for base in called.__mro__[1:-1] if isinstance(called, type) else ():
        if "__init__" in vars(base):
            yield base


def check_config(cfg: DictConfig) -> None:
    """Raise an error for what cannot be run, as far as can be told without building anything.

    Raises:
        ConfigError: for the first target, argument or value that cannot be.

    """
    check_targets(cfg)
    for name in BUILT:
        _check_built(name, cfg[name])
    check_whole("seed", cfg.seed)
    if cfg.seed >= 2**32:
        raise ConfigError(f"'seed' cannot be {cfg.seed}: it must be below 2**32.")
    for place, own in (("", cfg), *((f"tasks.{name}.", own) for name, own in cfg.tasks.items())):
        _check_changes(f"{place}teacher", own.get("teacher"), cfg)
    for path in ("trainer", "teacher.trainer"):
        check_trainer(path, OmegaConf.select(cfg, path))
    for own in (cfg, *cfg.tasks.values()):
        for key in WHOLE:
            check_whole(f"data.{key}", own.data.get(key))
        check_kind("task.metrics", {} if isinstance(own.task.metrics, DictConfig) else own.task.metrics, dict[str, Any])
        metric, computed = own.task.metric, [name for node in _metrics_of(own.task) for name in _score_names(*node)]
        if metric not in computed:
            raise ConfigError(f"task.metric={metric} is not in task.metrics. {hint(metric, computed)}")


BUILT = ("data", "task", "student", "objective", "optimizer", "trainer")
"""Groups of which every run builds something; a run of several tasks has its data and tasks below `tasks`."""


def _check_built(name: str, node: Any) -> None:
    """Raise an error where a group was deleted that every run needs."""
    if not isinstance(node, DictConfig) or not ({"_target_", "path"} & node.keys() or (name == "task" and node)):
        choices = sorted(file.stem for file in (CONFIGS / name).glob("*.yaml"))
        raise ConfigError(f"'{name}' says nothing of what to build: type {name}=NAME. {hint('', choices)}")


def _check_changes(path: str, teacher: Any, cfg: DictConfig) -> None:
    """Check what a teacher changes of the run's trainer, optimizer and scheduler, where it builds the same class."""
    for name in ("trainer", "optimizer", "scheduler") if isinstance(teacher, DictConfig) else ():
        node, base = teacher.get(name), cfg.get(name)
        if node is not None and not isinstance(node, DictConfig):
            raise ConfigError(f"'{path}.{name}' cannot be {node!r}: it must be a mapping.")
        if node is not None and "_target_" not in node and isinstance(base, DictConfig) and "_target_" in base:
            _check_call(f"{path}.{name}", OmegaConf.merge({"_target_": base["_target_"]}, node))  # type: ignore[arg-type]


WHOLE = ("batch_size", "eval_batch_size", "max_length", "num_labels", "num_workers", "limit")
"""Arguments of data modules that count something."""


def check_whole(key: str, value: Any) -> None:
    """Raise an error for what is no whole number where one must be; null leaves the choice to the class.

    Raises:
        ConfigError: naming the key.

    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(f"'{key}' cannot be {value!r}: it must be a whole number, not below 0.")


def check_trainer(path: str, trainer: DictConfig | None) -> None:
    """Raise an error for a Trainer that cannot be, would never stop, or only after Lightning's 1000 epochs.

    Raises:
        ConfigError: naming the key.

    """
    if trainer is None:
        return
    if given := next((key for key in GIVEN if key in trainer), None):
        raise ConfigError(f"'{path}.{given}' would be ignored: it is {GIVEN[given]}.")
    for key in COUNTS:
        value = trainer.get(key)
        if value is not None and not (isinstance(value, int) and value >= COUNTS[key]):
            raise ConfigError(f"'{path}.{key}' cannot be {value!r}: it is a whole number, at least {COUNTS[key]}.")
    if trainer.get("val_check_interval") == 0:
        raise ConfigError(f"'{path}.val_check_interval' cannot be 0: it is a share of an epoch or a number of batches.")
    if isinstance(devices := trainer.get("devices"), int | float | str):
        _check_devices(f"{path}.devices", devices)
    if "max_epochs" not in trainer or trainer.max_epochs not in (None, -1):
        return
    if trainer.get("max_steps", -1) in (None, -1) and trainer.get("max_time") is None:
        raise ConfigError(f"'{path}.max_epochs' is {trainer.max_epochs}, so nothing ends the training: type a number.")


GIVEN = {
    "callbacks": "made of the group 'callbacks': type '+callbacks.NAME={_target_: …}'",
    "logger": "made of the group 'logger': type logger=NAME, or '+logger.NAME={_target_: …}'",
    "default_root_dir": "the folder of each stage, below hydra.run.dir",
}
"""Arguments of the Trainer that a run gives itself."""

COUNTS = {"max_epochs": -1, "max_steps": -1, "accumulate_grad_batches": 1, "num_nodes": 1, "log_every_n_steps": 0,
          "check_val_every_n_epoch": 1}  # fmt: skip
"""Arguments of the Trainer that count something, and the least that each may be."""


def _check_devices(path: str, devices: int | float | str) -> None:
    several = isinstance(devices, str) and all(part.strip().isdigit() for part in devices.split(","))
    if devices not in ("auto", "-1", -1) and not several and not (type(devices) is int and devices > 0):
        raise ConfigError(f"'{path}' cannot be {devices!r}: it is a number of devices, at least 1, or auto.")


def _metrics_of(task: DictConfig) -> list[tuple[Any, Any]]:
    """Return a task's metrics that are not turned off; the mean over several tasks is none that is built."""
    return [(name, node) for name, node in task.metrics.items() if node is not None or name == MEAN]


def _score_names(name: Any, node: Any) -> list[str]:
    """Return the names of the scores of one of a task's metrics."""
    from kd_lightning.tasks.base import score_names  # tasks take long to import

    return score_names(str(name), get_object(node["_target_"]) if node is not None else None)


def check_targets(cfg: DictConfig) -> None:
    """Bind every `_target_` of a configuration to its arguments, without calling it.

    A target may hold interpolations that point to nothing, and values still to be given.

    Raises:
        ConfigError: naming the path of a target that cannot be found or called, of an argument it does not take, or of
            an entry of `callbacks`, `logger`, `objective.terms` and the like that has no target.

    """
    several = [f"tasks.{name}.task.metrics" for name in cfg.get("tasks") or ()]
    for place in (*HOLDERS, *several):
        _check_holder(place, OmegaConf.select(cfg, place))
    for path, node in _nodes(cfg, ""):
        if "_target_" in node:
            stage = path.rpartition(".")[0] == "plan"
            own = _without_settings(node) if path.rpartition(".")[2] == "teacher" else node
            _check_call(path, own, CHANGED if stage else ())


def _without_settings(teacher: DictConfig) -> DictConfig:
    """Return what a teacher's target gets: the node without keys that say how it is trained, cached and so on."""
    return OmegaConf.masked_copy(teacher, [key for key in map(str, teacher) if key not in TEACHER_KEYS])


def _check_holder(place: str, holder: Any) -> None:
    """Check that each entry is a mapping with a target, or null, which turns it off."""
    if not isinstance(holder, DictConfig) or "_target_" in holder:
        return
    for name in map(str, holder):
        entry = holder[name]
        if entry is None or (isinstance(entry, DictConfig) and "_target_" in entry):
            continue
        raise ConfigError(
            f"'{place}.{name}' has no _target_, so nothing would be built from it. "
            f"{_entries(place, name, holder)} Or turn it off with {place}.{name}=null."
        )


def _entries(place: str, name: str, holder: DictConfig) -> str:
    built = [key for key in map(str, holder) if isinstance(holder[key], DictConfig) and "_target_" in holder[key]]
    whole = [f"{place}.{key}" for key in built]
    return hint(f"{place}.{name}", whole) if whole else "Give it one."


def _nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield every mapping below a node with its path; what an interpolation points to is met where it is written."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    if isinstance(node, DictConfig):
        yield path, node
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if not OmegaConf.is_interpolation(node, key):
            inner = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key}".lstrip(".")
            yield from _nodes(node._get_node(key), inner)


def _check_call(path: str, node: DictConfig, beside: Sequence[str] = ()) -> None:
    """Check the arguments of one target, and name the nearest of those and of what else may stand beside them."""
    target = node["_target_"]
    if not isinstance(target, str):
        raise ConfigError(f"'{path}._target_' is {target!r}, but must be the dotted name of a class or function.")
    for key, annotated in OWN.items():
        if key in node:
            check_kind(f"{path}.{key}", _plain_value(node[key]), annotated)
    called = _located(path, target)
    if not callable(called):
        raise ConfigError(f"'{path}._target_' is '{target}', which cannot be called.")
    try:
        own, takes = inspect.signature(called).parameters, arguments_of(called)
    except (TypeError, ValueError):  # written in C, and says nothing of its arguments
        return
    count = len(node["_args_"]) if "_args_" in node else 0
    free = _by_name(path, target, own, takes, count)
    for name in (str(key) for key in node if key not in OWN):
        if name in takes.named and name not in free:
            raise ConfigError(f"'{path}.{name}' is given twice to {target}: by name, and by '{path}._args_'.")
        if name not in free and not takes.anything:
            raise ConfigError(f"'{path}.{name}' is no argument of {target}. {hint(name, [*free, *beside])}")
        if name in takes.named and not OmegaConf.is_missing(node, name):
            _check_value(f"{path}.{name}", node, name, takes.named[name])


def _plain_value(value: Any) -> Any:
    """Return a value of a configuration as plain dicts and lists, resolved."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_value(path: str, node: DictConfig, name: str, argument: inspect.Parameter) -> None:
    try:
        value = node[name]
        made_later = isinstance(value, DictConfig) and "_target_" in value
        if made_later or (value is None and argument.default is None):
            return
        value = _plain_value(value)
    except OmegaConfBaseException:  # an interpolation that points to nothing; who resolves it says so
        return
    check_kind(path, value, types_of(get_object(node["_target_"])).get(name))


def _by_name(path: str, target: str, own: Mapping[str, inspect.Parameter], takes: Arguments, count: int) -> list[str]:
    """Return which arguments are still to be given by name, after `count` that are given by place."""
    by_place = [n for n, p in own.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if count > len(by_place) and all(p.kind is not p.VAR_POSITIONAL for p in own.values()):
        raise ConfigError(f"'{path}._args_' has {count} values, but {target} takes at most {len(by_place)}.")
    named = [name for name, p in takes.named.items() if p.kind is not p.POSITIONAL_ONLY]
    return [name for name in named if name not in by_place[:count]]


def _located(path: str, target: str) -> Any:
    """Return what a dotted name stands for.

    Raises:
        ConfigError: naming the part that does not exist, and what there is in its place.

    """
    found, done = None, ""
    for part in target.split("."):
        name = f"{done}.{part}".lstrip(".")
        if found is not None and hasattr(found, part):
            found = getattr(found, part)
        else:
            found = _imported(path, target, name, found)
        done = name
    return found


def _imported(path: str, target: str, name: str, parent: Any) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"'{path}._target_' is '{target}', which needs '{error.name}': install it.") from None
    except Exception as error:
        raise ConfigError(f"'{path}._target_' is '{target}', but importing {name} failed: {error}") from error
    where, _, part = name.rpartition(".")
    if parent is None:
        raise ConfigError(f"'{path}._target_' is '{target}', but there is no module '{name}'. Is it installed?")
    raise ConfigError(f"'{path}._target_' is '{target}', but {where} has no '{part}'. {hint(part, _names_in(parent))}")


def _names_in(parent: Any) -> list[str]:
    modules = [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))]
    return [name for name in dict.fromkeys([*dir(parent), *modules]) if not name.startswith("_")]
