"""From a composed configuration to one that means the same wherever it is read, and to the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.pipeline.settings import (
    MEAN,
    CacheSettings,
    RunSettings,
    TaskSettings,
    TeacherSettings,
    TrainerSettings,
)
from kd_lightning.training.multi_task import check_task_name

OWN = ("data", "task")
"""What a task has of its own, whole; in all else it only changes what it names."""

CHANGED = ("teacher", "objective", "temperature")
"""What a task may change in part."""

INHERITED = ("root", "limit", "cache_dir", "num_workers")
"""Arguments of the run's data that count for further tasks too, where these leave them null."""

NAMES_OR_FOLDERS = ("path", "validation", "unlabelled")
"""Arguments of data modules that are a place, or else the name of a data set below `data.root`."""


def settle(cfg: DictConfig) -> DictConfig:
    """Make folders absolute, `auto` definite and several tasks symmetric.

    Raises:
        ConfigError: a value is still to be given, or tasks that exclude each other.

    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"'{missing[0]}' has no value: type {missing[0]}=VALUE.")
    _settle_tasks(cfg)
    with open_dict(cfg):
        for own in (cfg, *cfg.tasks.values()):
            teacher = own.get("teacher", {})
            if teacher.get("precision") == "auto":
                teacher.precision = fast_precision()
            paths = teacher.get("path")
            for node, key in (
                [(paths, name) for name in paths] if isinstance(paths, DictConfig) else [(teacher, "path")]
            ):
                _make_absolute(node, str(key))
            _make_absolute(own.data, "root")
            for key in NAMES_OR_FOLDERS:
                if own.data.get(key) is not None and Path(str(own.data[key])).expanduser().exists():
                    _make_absolute(own.data, key)
        _make_absolute(cfg.student, "path")
    return cfg


def _make_absolute(node: Any, key: str) -> None:
    if node.get(key) is not None:
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
        _check_keys(task, node, whole, first=task == name)
    if not 0 <= cfg.tau < float("inf"):
        raise ConfigError(f"'tau' is the exponent of the tasks' sizes, from 0, and cannot be {cfg.tau}.")
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
            cfg.trainer.strategy = "ddp_find_unused_parameters_true"


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
    """Return the settings of a settled configuration: from here on nobody knows of YAML."""
    whole = plain(cfg)
    whole.pop("kd_version", None)
    return RunSettings(
        tasks={name: _task_settings(plain(own)) for name, own in task_configs(cfg).items()},
        plan=whole["plan"],
        fitting=_trainer_settings(whole),
        metric=whole["task"]["metric"],
        mode=whole["task"]["mode"],
        tau=whole["tau"],
        seed=whole["seed"],
        baseline=whole["baseline"],
        cache=whole["cache"],
        config=whole,
    )


def _trainer_settings(own: dict[str, Any]) -> TrainerSettings:
    callbacks, logger = own["callbacks"] or {}, own["logger"] or {}
    return TrainerSettings(own["trainer"], own["optimizer"], own["scheduler"], callbacks, logger)


def _task_settings(own: dict[str, Any]) -> TaskSettings:
    return TaskSettings(
        task=own["task"],
        data=own["data"],
        teacher=_teacher_settings(own["teacher"]),
        student=own["student"],
        objective=own["objective"],
        fitting=_trainer_settings(own),
        temperature=own["temperature"],
        seed=own["seed"],
        compile=own["compile"],
        cache=own["cache"],
    )


def _teacher_settings(node: dict[str, Any]) -> TeacherSettings:
    """Return a teacher's settings. With a `_target_`, all keys that are no settings are arguments of the target."""
    known = TeacherSettings.__dataclass_fields__
    given = {key: value for key, value in node.items() if key in known and value is not None}
    given["cache"] = CacheSettings(**(node.get("cache") or {}))
    if "_target_" in node:
        target = {key: value for key, value in node.items() if key not in (*known, "mlm_epochs")}
        given[_role_of(target["_target_"])] = target
    return TeacherSettings(**given)


def _role_of(target: str) -> str:
    """Return which setting a teacher's `_target_` is: `source` where it makes a teacher source, else `model`."""
    from hydra.utils import get_object

    from kd_lightning.teachers import TeacherSource

    made = get_object(target)
    made = made if isinstance(made, type) else getattr(made, "__annotations__", {}).get("return")
    is_source = isinstance(made, type) and issubclass(made, TeacherSource)
    return "source" if is_source or made in ("TeacherSource", "kd.TeacherSource") else "model"
