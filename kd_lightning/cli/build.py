"""From a configuration to objects: data, models, objective, trainer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from kd_lightning.cli.positions import missing_positions
from kd_lightning.core.errors import ConfigError
from kd_lightning.data import DataModule
from kd_lightning.losses import HardLabel
from kd_lightning.models.heads import auto_class
from kd_lightning.models.heads import build as build_model
from kd_lightning.models.hub import from_hub, model_folder
from kd_lightning.models.saved import saved
from kd_lightning.models.vocabulary import transfer_vocabulary
from kd_lightning.objective import Objective, Term
from kd_lightning.objective.match import Match

FOLDERS = ("dirpath", "save_dir")
"""Arguments of callbacks and loggers that are below the stage's folder when they are relative."""

USUAL_HEAD = "sequence-classification"
"""The head of models where a task does not say."""

WHOLE = ("batch_size", "eval_batch_size", "max_length", "num_labels", "num_workers", "limit")
"""Arguments of data modules that count something."""


def build_data(cfg: DictConfig, teacher_tokenizer: Any = None, tokenizer: Any = None) -> Any:
    """Build the data module with the student's tokenizer, and the teacher's where that is another.

    Args:
        cfg: the configuration.
        teacher_tokenizer: the teacher's, which is the student's too where nothing else says so.
        tokenizer: the student's, instead of the configuration's.

    Raises:
        ConfigError: for half a row per batch and the like, a tokenizer that cannot be loaded, or no DataModule.

    """
    for key in WHOLE:
        check_whole(f"data.{key}", cfg.data.get(key))
    data = instantiate(cfg.data)
    if not isinstance(data, DataModule):
        raise ConfigError(f"data._target_ is {type(data).__name__}; derive it from kd_lightning.data.DataModule.")
    data.processor = tokenizer or data.processor or (_brings_tokenizer(cfg) if data.needs_processor else None)
    if isinstance(data.processor, str):
        data.processor = data.load_processor(data.processor)
    data.set_processors(teacher_tokenizer)
    return data


def teacher_data(cfg: DictConfig) -> Any:
    """Build the data for the teacher: with its own tokenizer, or the data's where it has none."""
    if cfg.teacher.pretrained is not None and "tokenizer" in cfg.data:
        cfg = OmegaConf.merge(cfg, {"data": {"tokenizer": None}})  # type: ignore[assignment]
    data = build_data(cfg)
    if data.needs_processor:
        data.processor = load_tokenizer(cfg, data)
    return data


def check_whole(key: str, value: Any) -> None:
    """Refuse what is no whole number where one must be; null leaves the choice to the class.

    Raises:
        ConfigError: naming the key.

    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ConfigError(f"'{key}' cannot be {value!r}: it must be a whole number, not below 0.")


def load_tokenizer(cfg: DictConfig, data: Any) -> Any:
    """Return the teacher's tokenizer: its own, the data's, or one made from the training text."""
    if cfg.teacher.pretrained is not None:
        return data.load_processor(cfg.teacher.pretrained)
    return data.processor or data.load_processor("train")


def head_of(cfg: DictConfig) -> str:
    """Return which head the models of a task have."""
    return cfg.task.get("head", USUAL_HEAD)


def labels_of(data: Any) -> dict[str, Any]:
    """Return what a Transformers configuration says of the labels."""
    return data.label_config


def fresh_teacher(cfg: DictConfig, data: Any) -> nn.Module:
    """Return the teacher before fine-tuning: pretrained weights with a new head, or random ones of an architecture.

    Raises:
        ConfigError: for a model that cannot be found, or one with a new head that is never to be trained.

    """
    from transformers import AutoConfig

    if cfg.teacher.pretrained is not None:
        return _pretrained_teacher(cfg, labels_of(data))
    architecture: dict[str, Any] = plain(cfg.teacher.architecture)
    vocabulary = {"vocab_size": len(data.tokenizer), "pad_token_id": data.tokenizer.pad_token_id}
    config = AutoConfig.for_model(**(vocabulary | architecture), **labels_of(data))
    model = build_model(head_of(cfg), config)
    if "max_position_embeddings" not in architecture and (missing := missing_positions(model, data)):
        config.max_position_embeddings += missing
        return build_model(head_of(cfg), config)
    return model


def _pretrained_teacher(cfg: DictConfig, labels: dict[str, Any]) -> nn.Module:
    load = auto_class(head_of(cfg)).from_pretrained
    model, info = from_hub(load, cfg.teacher.pretrained, output_loading_info=True, **labels)
    if info["missing_keys"] and OmegaConf.select(cfg, "teacher.trainer.max_epochs") == 0:
        raise ConfigError(
            f"The teacher '{cfg.teacher.pretrained}' has no head for {head_of(cfg)}, and a new one that is never "
            "trained teaches nothing: type teacher.trainer.max_epochs=1, or choose a teacher that has one."
        )
    return model


def build_student(cfg: DictConfig, teacher: nn.Module | None, data: Any, like: nn.Module | None = None) -> nn.Module:
    """Build the student of a task, for the data's vocabulary and labels.

    Args:
        cfg: the task's configuration.
        teacher: what it is made like; BERT-base where there is none.
        data: the task's data.
        like: of several tasks the first one's teacher, like which all students are made that share a body.

    """
    from transformers import BertConfig

    if cfg.student.get("path") is not None:
        _check_own_tokenizer(cfg, data)
        return saved(cfg.student.path, task=head_of(cfg), **labels_of(data))
    made = instantiate(OmegaConf.masked_copy(cfg.student, [key for key in cfg.student if key != "path"]))
    if not isinstance(made, partial):
        return made
    tokenizer = data.tokenizer
    _check_own_tokenizer(cfg, data)
    base = like or teacher or BertConfig()
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    said = {name: value for name, value in labels_of(data).items() if value is not None}
    head = {} if head_of(cfg) == USUAL_HEAD else {"task": head_of(cfg)}  # a builder for one kind of task need not ask
    student = made(base, **head, **said, **vocabulary)
    theirs = data.teacher_processor
    if like is None and teacher is not None and theirs is not None and cfg.student.get("layers") is not None:
        transfer_vocabulary(teacher, student, theirs, tokenizer)
    return student


def _brings_tokenizer(cfg: DictConfig) -> str | None:
    """Return where a student's own tokenizer is: that of a saved one, or of a pretrained one."""
    path = cfg.student.get("path")
    return str(model_folder(Path(path), "student.path", "saved model")) if path else cfg.student.get("name")


def _check_own_tokenizer(cfg: DictConfig, data: Any) -> None:
    """Refuse to feed a pretrained student with pieces it does not know."""
    name = _brings_tokenizer(cfg)
    if name is None or not data.needs_processor:
        return
    if data.load_processor(name).get_vocab() != data.processor.get_vocab():
        raise ConfigError(
            f"The student '{name}' has a tokenizer of its own, and the data another. Type data.tokenizer={name}, or "
            "choose another student."
        )


def hard_only(cfg: DictConfig) -> Objective:
    """Return the objective of a model that learns from labels alone, by the experiment's own hard-label loss."""
    node = OmegaConf.select(cfg, "objective.terms.hard.loss")
    flags = {name: bool(cfg.task.get(name)) for name in ("multilabel", "regression")}
    outputs, targets = (cfg.task.get(name, usual) for name, usual in (("outputs", "logits"), ("targets", "labels")))
    loss = instantiate(node) if node is not None else HardLabel(**flags)
    return Objective({"hard": Term(Match(outputs, targets), loss)})


def build_trainer(cfg: DictConfig, folder: Path) -> Trainer:
    """Build the Trainer of a stage; relative folders of callbacks and loggers are below `folder`."""
    callbacks, loggers = (_below(nodes, folder) for nodes in (cfg.callbacks, cfg.logger))
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]  # it insists on one
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers or False, default_root_dir=str(folder))


def scoring_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[Callback]) -> Trainer:
    """Build a Trainer that only validates."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return instantiate(cfg.trainer, **quiet, callbacks=list(callbacks), default_root_dir=str(folder))


def on_one_device(cfg: DictConfig) -> DictConfig:
    """Return the configuration with a trainer of one process, for the stages that come before several."""
    one = {"trainer": {"devices": 1, "num_nodes": 1, "strategy": "auto"}}
    return OmegaConf.merge(cfg, one)  # type: ignore[return-value]


def _below(nodes: DictConfig | None, folder: Path) -> list[Any]:
    """Instantiate callbacks or loggers; a node that is null is off."""
    return [instantiate(node, **_absolute(node, folder)) for node in (nodes or {}).values() if node is not None]


def _absolute(node: DictConfig, folder: Path) -> dict[str, str]:
    return {key: str(folder / node[key]) for key in FOLDERS if isinstance(node.get(key), str)}


def plain(node: DictConfig | ListConfig) -> Any:
    """Return a resolved configuration as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)
