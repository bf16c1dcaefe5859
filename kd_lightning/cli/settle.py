"""From a composed configuration to one that means the same wherever it is read, and to the settings of a run."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.cli.checks import check_config
from kd_lightning.cli.configs import TrainSchema
from kd_lightning.cli.kinds import check_kind, types_of
from kd_lightning.cli.stages import (
    FIND_UNUSED,
    INHERITED,
    check_references,
    settle_plan,
    skips_parameters,
    split,
    stage_configs,
)
from kd_lightning.core.errors import ConfigError, KDError, hint
from kd_lightning.pipeline.checks import follows_student
from kd_lightning.pipeline.settings import (
    MEAN,
    NO_ARGUMENTS,
    ONE_DEVICE,
    FittingSettings,
    RunSettings,
    TaskSettings,
    TeacherSettings,
    merged,
)
from kd_lightning.training.multi_task import check_task_name

OWN = ("data", "task")
"""What a task has of its own, whole; in all else it only changes what it names."""

CHANGED = ("teacher", "objective", "temperature")
"""What a task may change in part."""

NAMES_OR_FOLDERS = ("path", "validation", "unlabelled")
"""Arguments of data modules that are a place, or else the name of a data set below `data.root`."""


def settle(cfg: DictConfig) -> DictConfig:
    """Make folders absolute, `auto` definite and several tasks symmetric.

    Raises:
        ConfigError: an unknown key at the root, a value that is still to be given, or tasks that exclude each other.

    """
    check_root_keys(cfg)
    check_kind("tasks", {} if isinstance(cfg.tasks, DictConfig) else cfg.tasks, dict[str, Any])
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"'{missing[0]}' has no value: type {missing[0]}=VALUE.")
    if not 0 <= cfg.tau < float("inf"):
        raise ConfigError(f"'tau' is the exponent of the tasks' sizes, from 0, and cannot be {cfg.tau}.")
    _settle_tasks(cfg)
    if cfg.trainer.get("strategy") == "ddp" and skips_parameters(plain(cfg)):
        cfg.trainer.strategy = FIND_UNUSED
    settle_plan(cfg)
    check_kind("student.path", cfg.student.get("path"), str | None)
    with open_dict(cfg):
        for own in (cfg, *cfg.tasks.values(), *(stage for stage in cfg.plan.values() if stage is not None)):
            _settle_places(own)
    return cfg


def _settle_places(own: DictConfig) -> None:
    """Make folders of a run, a task or a stage absolute, and its teacher's precision definite."""
    teacher, data, student = (own.get(key) for key in ("teacher", "data", "student"))
    if isinstance(teacher, DictConfig):
        if teacher.get("precision") == "auto":
            teacher.precision = fast_precision()
        paths = teacher.get("path")
        for node, key in [(paths, name) for name in paths] if isinstance(paths, DictConfig) else [(teacher, "path")]:
            _make_absolute(node, str(key))
    if isinstance(data, DictConfig):
        _make_absolute(data, "root")
        for key in NAMES_OR_FOLDERS:
            if data.get(key) is not None and Path(str(data[key])).expanduser().exists():
                _make_absolute(data, key)
    if isinstance(student, DictConfig):
        _make_absolute(student, "path")


def check_root_keys(cfg: DictConfig, schema: type = TrainSchema) -> None:
    """Raise an error for keys at the root that the schema does not have, which `+key=value` would slip past it.

    Args:
        cfg: the composed configuration.
        schema: the dataclass that types its root.

    Raises:
        ConfigError: for the first unknown key.

    """
    known = [field.name for field in dataclasses.fields(schema)]
    for key in map(str, cfg):
        if key not in known and key != "hydra":
            raise ConfigError(f"There is no key '{key}' at the root of the configuration. {hint(key, known)}")


def _make_absolute(node: Any, key: str) -> None:
    if isinstance(node.get(key), str) and node[key]:
        node[key] = str(Path(str(node[key])).expanduser().resolve())


def fast_precision() -> str | None:
    """Return `bfloat16` where the hardware computes in it, else None: a teacher then stays as it was stored.

    GPUs do from compute capability 8.0 on; CPUs with AVX-512 BF16 or AMX instructions. Elsewhere bfloat16 is
    emulated, and slower.
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else None
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if native else None


# -- several tasks ---------------------------------------------------------------------------------------------------


def _settle_tasks(cfg: DictConfig) -> None:
    """Make a run of several tasks symmetric: each task has its data and metrics below `tasks`, resolved.

    The run's own data becomes one of the tasks, by its name, and the run's main metric the mean of all tasks' ones.
    """
    if not cfg.tasks or cfg.task.metric == MEAN:
        return
    name = cfg.data.get("name", "synthetic")
    if name in cfg.tasks:
        raise ConfigError(f"The data '{name}' is the run's own already; call the task by another name in tasks.{name}.")
    whole = _unresolved(cfg)
    path = whole["teacher"]["path"]  # of a teacher for the run's own data, and for no other
    with open_dict(cfg):
        cfg.teacher.path = None
    named = {name: {**{key: whole[key] for key in OWN}, "teacher": {"path": path}}, **whole["tasks"]}
    for task, node in named.items():
        check_task_name(task)
        if not isinstance(node, dict):
            raise ConfigError(f"tasks.{task} cannot be {node!r}. Type +data@tasks.{task}=NAME to choose its data set.")
        _check_keys(task, node, whole, first=task == name)
    settled = {task: _resolved(_of_task(cfg, node), node) for task, node in named.items()}
    modes = {task: node["task"]["mode"] for task, node in settled.items()}
    if len(set(modes.values())) > 1:
        raise ConfigError(
            f"The mean of the tasks' main metrics has no sense: {modes}. Choose other ones by task.metric."
        )
    with open_dict(cfg):
        cfg.tasks = settled
        cfg.task = {"metric": MEAN, "mode": modes[name], "metrics": {MEAN: None}}
        if cfg.trainer.strategy == "ddp":  # a step trains one task's head only
            cfg.trainer.strategy = FIND_UNUSED
        run = plain(cfg)
        for task, node in named.items():
            own = plain(_of_task(cfg, node))
            # what follows from the task by interpolation, which a saved configuration no longer has
            cfg.tasks[task].update({k: own[k] for k in own if k not in (*OWN, *node, "tasks") and own[k] != run[k]})


def _resolved(whole: DictConfig, node: dict[str, Any]) -> dict[str, Any]:
    values = {key: whole[key] for key in node}
    return {key: plain(value) if isinstance(value, DictConfig) else value for key, value in values.items()}


def _check_keys(task: str, node: dict[str, Any], whole: dict[str, Any], first: bool) -> None:
    """Raise an error for what a task cannot have of its own, and for misspelled keys, which `+` lets through."""
    missing = [key for key in OWN if key not in node]
    if missing:
        raise ConfigError(
            f"tasks.{task} has no {missing[0]}. Type +data@tasks.{task}=NAME to choose a data set for it."
        )
    wrong = next((key for key in node if key not in (*OWN, *CHANGED)), None)
    if wrong is not None:
        raise ConfigError(f"A task has no '{wrong}' of its own (tasks.{task}.{wrong}). {hint(wrong, [*OWN, *CHANGED])}")
    wrong = next((key for key in node.get("teacher") or {} if key not in whole["teacher"]), None)
    if wrong is not None:
        raise ConfigError(f"There is no key 'tasks.{task}.teacher.{wrong}'. {hint(wrong, whole['teacher'])}")
    if not first and node["data"].get("tokenizer") is not None:
        raise ConfigError(f"All tasks have one student, and it one tokenizer: data.tokenizer, not tasks.{task}.data.")


def task_configs(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return a whole configuration for each task of a settled run; the run's own, named "", where there is one.

    Example:
        >>> from kd_lightning.cli.configs import compose_config
        >>> list(task_configs(compose_config()))
        ['']

    """
    if not cfg.tasks:
        return {"": cfg}
    return {task: _of_task(cfg, node) for task, node in _unresolved(cfg.tasks).items()}


def _of_task(cfg: DictConfig, node: dict[str, Any]) -> DictConfig:
    """Return the run's configuration as one task changes it; interpolations then mean this task's own values."""
    whole = _unresolved(cfg) | {key: node[key] for key in OWN} | {"tasks": {}}
    inherited = {key: cfg.data.get(key) for key in INHERITED if whole["data"].get(key, 0) is None}
    changes = {key: value for key, value in node.items() if key not in OWN}
    return OmegaConf.merge(whole, {"data": inherited}, changes)  # type: ignore[return-value]


def _unresolved(node: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain dicts, interpolations as they are written."""
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def plain(node: Any) -> Any:
    """Return a resolved configuration as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


# -- settings --------------------------------------------------------------------------------------------------------


def settings_of(cfg: DictConfig) -> RunSettings:
    """Check a settled configuration and return its settings: what the stages get instead of YAML.

    Raises:
        ConfigError: for the first target, argument or value that cannot be.

    """
    plan = {name: node if node is None else split(node)[0] for name, node in plain(cfg.plan).items()}
    check_references(plan)
    settings = _checked_settings(cfg.copy(), plan)
    stages = {}
    for name, own in stage_configs(cfg).items():
        try:
            changes = split(plain(cfg.plan[name]))[1]
            if follows_student(changes.get("teacher")):
                own.cache = False  # the cache is of the run's own teachers
            shares = not {"task", "teacher"} & changes.keys() and not changes.get("data", {}).keys() - {"unlabelled"}
            stages[name] = dataclasses.replace(_checked_settings(own, {}), shares_cache=shares)
        except KDError as error:
            raise type(error)(f"In stage '{name}': {error}") from error
    return dataclasses.replace(settings, plan=plan, stages=stages, config=settings.config | {"plan": plain(cfg.plan)})


def _checked_settings(cfg: DictConfig, plan: dict[str, Any]) -> RunSettings:
    """Check the configuration of a run, or of one of its stages, and return its settings."""
    with open_dict(cfg):
        cfg.plan = plan
    check_config(cfg)
    whole = plain(cfg)
    whole.pop("kd_version", None)
    tasks = {name: _task_settings(plain(own)) for name, own in task_configs(cfg).items()}
    return RunSettings(
        tasks=tasks,
        plan=plan,
        fitting=_fitting_settings(whole),
        metric=whole["task"]["metric"],
        has_teacher=all(task.teacher is not None for task in tasks.values()),
        tau=whole["tau"],
        seed=whole["seed"],
        config=whole,
    )


def _task_settings(own: dict[str, Any]) -> TaskSettings:
    names = {field.name for field in dataclasses.fields(TaskSettings)} - {"teacher", "fitting"}
    shared = {name: own[name] for name in names}
    return TaskSettings(**shared, teacher=_teacher_settings(own), fitting=_fitting_settings(own))


def _fitting_settings(own: dict[str, Any], **changes: Any) -> FittingSettings:
    nodes = {key: own[key] for key in ("trainer", "optimizer", "scheduler")} | changes
    return FittingSettings(**nodes, callbacks=own["callbacks"] or {}, logger=own["logger"] or {})


def _teacher_settings(own: dict[str, Any]) -> TeacherSettings | None:
    """Return a teacher's settings, None where there is none.

    With a `_target_`, all keys that are no settings are arguments of the target.
    """
    node, scheduler = own["teacher"], own["teacher"].get("scheduler")
    check_kind("teacher.cache", node.get("cache"), dict[str, Any] | None)
    cache = node.get("cache") or {}
    changes = {
        "trainer": merged(own["trainer"], node.get("trainer")) | ONE_DEVICE,
        "optimizer": _changed(own["optimizer"], node.get("optimizer")),
        "scheduler": None if scheduler is None else _changed(own["scheduler"], scheduler),
    }
    stored_as = [name for name in TeacherSettings.__dataclass_fields__ if name.startswith("cache_")]
    _check_known("teacher.cache", cache, [name.removeprefix("cache_") for name in stored_as])
    known = set(TeacherSettings.__dataclass_fields__) - {"fitting", *stored_as}
    if "_target_" not in node:
        _check_known("teacher", node, [*known, *NO_ARGUMENTS])
    given = {key: value for key, value in node.items() if key in known and value is not None}
    _check_teacher(node, given)
    if "_target_" in node:
        target = {key: value for key, value in node.items() if key not in (*known, *NO_ARGUMENTS)}
        given[_role_of(target["_target_"])] = target
    if not given.keys() & MADE_FROM:
        if node.get("name") in ("none", None):
            return None
        raise ConfigError(
            f"The teacher '{node['name']}' is made from nothing: type teacher.path=DIR for one that is fine-tuned, "
            "teacher.pretrained=NAME for one to fine-tune, or teacher=none to go without."
        )
    stored = {"cache_dtype": cache.get("dtype", "bf16")}
    stored |= {f"cache_{key}": cache.get(key) for key in ("top_k", "views")}
    return TeacherSettings(_fitting_settings(own, **changes), **given, **stored)


def _check_known(path: str, node: dict[str, Any], known: list[str]) -> None:
    """Raise an error for a key that nothing reads, which `+key=value` lets through."""
    if wrong := next((key for key in node if key not in known), None):
        raise ConfigError(f"There is no key '{path}.{wrong}'. {hint(wrong, known)}")


def _check_teacher(node: dict[str, Any], given: dict[str, Any]) -> None:
    """Check the values of a teacher's settings, and that its name can be a folder's."""
    for key, annotated in types_of(TeacherSettings).items():
        if key in given:
            check_kind(f"teacher.{key}", given[key], annotated)
    check_kind("teacher.mlm_epochs", node.get("mlm_epochs", 0), int)
    if empty := next((key for key in ("path", "pretrained", "name") if given.get(key) == ""), None):
        raise ConfigError(f"'teacher.{empty}' is empty: type teacher.{empty}=VALUE, or null.")
    if "/" in given.get("name", ""):
        raise ConfigError(f"'teacher.name' names a folder, and cannot be '{given['name']}': leave '/' out.")


def _changed(node: dict[str, Any] | None, changes: dict[str, Any] | None) -> dict[str, Any]:
    """Return a node with changes; one with another `_target_` replaces it, because its arguments are others."""
    others = (changes or {}).get("_target_") not in (None, (node or {}).get("_target_"))
    return merged(None if others else node, changes)


MADE_FROM = {"path", "pretrained", "architecture", "model", "source"}
"""Settings one of which says what a teacher is made from."""


def _role_of(target: str) -> str:
    """Return which setting a teacher's `_target_` is: `source` where it makes a teacher source, else `model`."""
    from hydra.utils import get_object

    from kd_lightning.teachers import TeacherSource

    made = get_object(target)
    made = made if isinstance(made, type) else typing.get_type_hints(made).get("return")
    return "source" if isinstance(made, type) and issubclass(made, TeacherSource) else "model"
