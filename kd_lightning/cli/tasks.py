"""Several tasks in one configuration: what each of them is by itself."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.cli.build import plain
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.training.multi_task import check_task_name

OWN = ("data", "task")
"""What a task has of its own, whole; in all else it only changes what it names."""

CHANGED = ("teacher", "objective", "temperature")
"""What a task may change in part."""

INHERITED = ("root", "limit", "cache_dir", "num_workers")
"""Arguments of the run's data that count for further tasks too, where these say nothing."""

ALL = "mean"
"""The main metric of several tasks: the mean of theirs."""


def settle_tasks(cfg: DictConfig) -> None:
    """Make a run of several tasks symmetric: each task has its data and metrics below `tasks`, resolved.

    The run's own data becomes one of the tasks, by its name, and the run's main metric the mean of all tasks' ones.

    Raises:
        ConfigError: for a name that is there twice, a task without data, or main metrics that go different ways.

    """
    if not cfg.tasks or cfg.task.metric == ALL:
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
    settled = {task: _resolved(cfg, task, node) for task, node in named.items()}
    modes = {task: node["task"]["mode"] for task, node in settled.items()}
    if len(set(modes.values())) > 1:
        raise ConfigError(
            f"The mean of the tasks' main metrics has no sense: {modes}. Choose other ones by task.metric."
        )
    with open_dict(cfg):
        cfg.tasks = settled
        cfg.task = {"metric": ALL, "mode": modes[name], "metrics": {ALL: None}}
        if cfg.trainer.strategy == "ddp":  # a step trains one task's head only
            cfg.trainer.strategy = "ddp_find_unused_parameters_true"


def task_configs(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return a whole configuration for each task of a settled run; the run's own, with no name, where there is one.

    Example:
        >>> from kd_lightning.cli.configs import compose_config
        >>> list(task_configs(compose_config()))
        ['']

    """
    if not cfg.tasks:
        return {"": cfg}
    return {task: _merged(cfg, node) for task, node in _unresolved(cfg.tasks).items()}


def _resolved(cfg: DictConfig, task: str, node: dict[str, Any]) -> dict[str, Any]:
    whole = _merged(cfg, node)
    values = {key: whole[key] for key in node}
    return {key: plain(v) if isinstance(v, DictConfig) else v for key, v in values.items()}


def _check_keys(task: str, node: dict[str, Any], whole: dict[str, Any], first: bool) -> None:
    """Refuse what a task cannot have of its own, and misspelled keys, which `+` lets through."""
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


def _merged(cfg: DictConfig, node: dict[str, Any]) -> DictConfig:
    """Return the run's configuration as one task changes it; interpolations then mean this task's own values."""
    whole = _unresolved(cfg) | {key: node[key] for key in OWN} | {"tasks": {}}
    inherited = {key: cfg.data.get(key) for key in INHERITED if whole["data"].get(key, 0) is None}
    changes = {key: value for key, value in node.items() if key not in OWN}
    return OmegaConf.merge(whole, {"data": inherited}, changes)  # type: ignore[return-value]


def _unresolved(node: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain dicts, interpolations as they are written."""
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]
