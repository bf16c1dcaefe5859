"""The teacher stage: find the fine-tuned teacher under its fingerprint, or make it, once, whoever asks."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import nn

from kd_lightning.cli.build import (
    build_data,
    build_trainer,
    fresh_teacher,
    hard_only,
    head_of,
    on_one_device,
    plain,
    teacher_data,
)
from kd_lightning.cli.fitting import build_module, fit, rehearse
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.models.export import export
from kd_lightning.models.heads import auto_class
from kd_lightning.models.hub import locate, model_folder

log = logging.getLogger(__name__)

TRAINER_SHAPES = (
    "max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches",
    "limit_val_batches", "val_check_interval", "check_val_every_n_epoch",
)  # fmt: skip
"""Trainer arguments that change what comes out of training, and so belong to a teacher's fingerprint."""

DATA_SHAPES = ("batch_size", "group_by_length", "seed", "num_labels", "max_answer_length")
"""Attributes of a data module that do so too, and are not in its fingerprint."""


def prepare_teachers(cfg: DictConfig) -> tuple[dict[str, Path], float]:
    """Return the folders of a task's teachers by name, none where there is no teacher, and the seconds spent.

    Raises:
        ConfigError: if `teacher.path` is no model's folder.

    """
    check_teacher(cfg)
    if isinstance(cfg.teacher.path, DictConfig):
        return {str(name): _given(Path(folder)) for name, folder in cfg.teacher.path.items()}, 0.0
    if not has_teacher(cfg):
        return {}, 0.0
    folder, seconds = prepare_teacher(cfg)
    return {cfg.teacher.name: folder}, seconds


def check_teacher(cfg: DictConfig) -> None:
    """Refuse settings for several teachers where there is one, and a task for one label where rows have several.

    Raises:
        ConfigError: with what to type.

    """
    several = isinstance(cfg.teacher.path, DictConfig)
    if several and not cfg.teacher.path:
        raise ConfigError("'teacher.path' is empty. Type teacher.path=DIR, or 'teacher.path={a: DIR, b: DIR}'.")
    if cfg.teacher.get("combine", "logits") not in ("logits", "probabilities"):
        raise ConfigError(f"'teacher.combine' cannot be '{cfg.teacher.combine}': choose logits or probabilities.")
    if cfg.teacher.get("weights") is not None and not several:
        raise ConfigError("'teacher.weights' is for several teachers: 'teacher.path={a: DIR, b: DIR}'.")
    check_head(cfg)
    if cfg.data.get("multilabel") and not cfg.task.get("multilabel"):
        raise ConfigError("Rows of this data have several labels. Type task=multilabel.")
    if bool(cfg.data.get("regression")) != bool(cfg.task.get("regression")):
        other = "regression" if cfg.data.get("regression") else "classification"
        raise ConfigError(
            f"This data has {'numbers to predict' if other == 'regression' else 'classes'}. Type task={other}."
        )


TASKS = {
    "sequence-classification": "classification",
    "token-classification": "tagging",
    "question-answering": "question_answering",
    "masked-lm": "masked_lm",
}
"""What is typed for a head, as task=NAME."""


def check_head(cfg: DictConfig) -> None:
    """Refuse a task whose models have another head than the data's rows are made for.

    Raises:
        ConfigError: with the task that goes with the data.

    """
    target = cfg.data.get("_target_")
    made_for = getattr(get_object(target), "head", None) if isinstance(target, str) else None
    if made_for is not None and made_for != head_of(cfg):
        raise ConfigError(
            f"Rows of this data are made for {made_for}, and the task is {head_of(cfg)}. "
            f"Type task={TASKS[made_for]}, or choose other data."
        )


def has_teacher(cfg: DictConfig) -> bool:
    """Tell whether there is anything to teach with; `teacher=none` has nothing."""
    return any(cfg.teacher[key] is not None for key in ("path", "pretrained", "architecture"))


def prepare_teacher(cfg: DictConfig) -> tuple[Path, float]:
    """Return the folder of a teacher that is ready to teach, and the seconds spent on making it.

    Raises:
        ConfigError: if `teacher.path` is no model's folder.

    """
    start = time.perf_counter()
    if cfg.teacher.path is not None:
        return _given(Path(cfg.teacher.path)), 0.0
    recipe = _own_recipe(cfg)
    data = teacher_data(recipe)
    folder = cache_root() / "teachers" / f"{cfg.teacher.name}-{digest(_shape(recipe, data))}"
    if not folder.is_dir():
        rehearse(cfg, build_data(cfg, data.processor), fresh_teacher(cfg, data))
    training = folder.parent / f".{folder.name}.training"
    built = build_once(folder, lambda scratch: _fine_tune(recipe, data, scratch, training))
    shutil.rmtree(training, ignore_errors=True)
    log.info("Teacher %s: %s %s.", cfg.teacher.name, "fine-tuned into" if built else "found in", folder)
    return folder, time.perf_counter() - start if built else 0.0


def load_teacher(folder: Path, head: str) -> tuple[nn.Module, Any]:
    """Load a fine-tuned teacher with its head, and its tokenizer.

    Raises:
        ConfigError: for a model without that head, or of parts that were not saved: what is missing would be random.

    """
    from transformers import AutoTokenizer

    model, info = auto_class(head).from_pretrained(folder, output_loading_info=True)
    saved = model.config.architectures or [type(model).__name__]
    if info["missing_keys"] or type(model).__name__ not in saved:
        lacks = f"it has no {min(info['missing_keys'])}" if info["missing_keys"] else f"it is a {saved[0]}"
        raise ConfigError(
            f"The teacher in {folder} was not fine-tuned for {head}: {lacks}. Choose one "
            "that was, or give its folder as teacher.pretrained, from which a teacher is fine-tuned first."
        )
    return model, AutoTokenizer.from_pretrained(folder)


def check_labels(model: Any, num_labels: int, folder: Path, names: Mapping[int, str] | None = None) -> None:
    """Refuse a teacher for other labels.

    Args:
        model: the teacher.
        num_labels: how many labels the data has.
        folder: where the teacher is from.
        names: what the data's labels are called, by number; None: whatever.

    Raises:
        ConfigError: if its head has another number of labels than the data, or the same ones in another order.

    """
    if model.config.num_labels != num_labels:
        raise ConfigError(
            f"The teacher in {folder} tells {model.config.num_labels} labels apart, but the data has {num_labels} "
            "(data.num_labels). Choose a teacher that was fine-tuned for this data."
        )
    own = {int(number): str(name).lower() for number, name in model.config.id2label.items()}
    wanted = {number: name.lower() for number, name in (names or {}).items()}
    if own != wanted and sorted(own.values()) == sorted(wanted.values()):
        said = [", ".join(name for _, name in sorted(told.items())) for told in (own, wanted)]
        raise ConfigError(
            f"The teacher in {folder} numbers its labels {said[0]}, but the data {said[1]} "
            "(data.labels). Choose a teacher that was fine-tuned for this data."
        )
    if wanted and own != wanted and not all(name.startswith("label_") for name in own.values()):
        log.warning("The labels of the teacher in %s are %s, those of the data %s.", folder, own, wanted)


def _given(folder: Path) -> Path:
    return model_folder(folder, "teacher.path", "fine-tuned model")


def _own_recipe(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the teacher's own training: its trainer settings, optimizer and scheduler."""
    own = {key: cfg.teacher[key] for key in ("trainer", "optimizer", "scheduler")}
    for_it_to_label = [key for key in ("augment", "unlabelled") if key in cfg.data]  # and not to learn from
    if for_it_to_label:
        own["data"] = dict.fromkeys(for_it_to_label)
    return on_one_device(OmegaConf.merge(cfg, own))  # type: ignore[arg-type]


def _shape(cfg: DictConfig, data: Any) -> Any:
    """Return everything that shapes the fine-tuned weights."""
    trainer = {name: cfg.trainer.get(name) for name in TRAINER_SHAPES}
    recipe = [plain(node) if node is not None else None for node in (cfg.optimizer, cfg.scheduler, cfg.task)]
    origin = plain(cfg.teacher.architecture) if cfg.teacher.pretrained is None else _weights(cfg.teacher.pretrained)
    order = {name: getattr(data, name, None) for name in DATA_SHAPES}
    hard = OmegaConf.select(cfg, "objective.terms.hard.loss")
    return [origin, data.fingerprint, order, trainer, recipe, plain(hard) if hard is not None else None, cfg.seed]


def _weights(pretrained: str) -> str:
    """Return a hash of a local model's files; a hub name stands for itself."""
    folder = Path(locate(pretrained))
    if not folder.is_dir():
        return pretrained
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))]
    digests += [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))]
    return digest(digests)


def _fine_tune(cfg: DictConfig, data: Any, folder: Path, training: Path) -> None:
    """Fine-tune on labels alone and keep the best epoch, with its curves beside it; goes on where a killed one was."""
    seed_everything(cfg.seed, verbose=False)
    module = build_module(cfg, fresh_teacher(cfg, data), None, hard_only(cfg), data)
    fit(module, data, build_trainer(cfg, training), training)
    if training.is_dir():  # a fast_dev_run leaves no curves
        shutil.copytree(training, folder / "training", ignore=shutil.ignore_patterns("checkpoints"))
    export(module, folder / "model", tokenizer=data.processor)
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
    (folder / "recipe.json").write_text(json.dumps(plain(cfg), indent=2))
