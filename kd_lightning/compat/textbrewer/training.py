"""From a TextBrewer `TrainingConfig`, and the arguments of its `train`, to arguments of Lightning's Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from kd_lightning.compat.textbrewer.config import Config, read
from kd_lightning.core.errors import ConfigError, hint

TRAINING: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "ckpt_frequency": 1,
    "ckpt_epoch_frequency": 1,
    "ckpt_steps": None,
    "log_dir": None,
    "output_dir": "./saved_models",
    "device": None,
    "fp16": False,
    "fp16_opt_level": "O1",
    "data_parallel": False,
    "local_rank": -1,
}
"""Every argument of a `TrainingConfig`, and its default; a device that is not given is left to Lightning."""

PRECISION = {"O0": "32-true", "O1": "16-mixed", "O2": "16-mixed", "O3": "16-true"}
"""Apex's levels; its O2 also keeps the weights in half precision, with a copy in single."""


@dataclass(frozen=True)
class Training:
    """What a training configuration becomes.

    Args:
        trainer: arguments for `Trainer(**trainer)`.
        dropped: what has no counterpart, by TextBrewer's name, and what to do instead.

    """

    trainer: dict[str, Any]
    dropped: dict[str, str] = field(default_factory=dict)


def training(
    config: Config, num_epochs: int | None = None, num_steps: int | None = None, max_grad_norm: float = -1.0
) -> Training:
    """Return Trainer arguments for a TextBrewer `TrainingConfig` and the arguments of its `train`.

    Checkpoints are Lightning's, with projections, optimizer and the position of the run. `ckpt_frequency=2` saves after
    each of two validations per epoch, where TextBrewer calls its callback too, so it needs a validation loader.
    Three things differ, and not for the worse: the last, smaller window of accumulated batches makes a step too,
    clipping sees the gradients of projections too, and the last step of all is always saved.

    Args:
        config: a `TrainingConfig` as a dict, the path of a JSON file, or an object with such attributes.
        num_epochs: as for `train`.
        num_steps: as for `train`; the loader may then have no length.
        max_grad_norm: as for `train`; -1: no clipping.

    Raises:
        ConfigError: if an argument is unknown, or neither epochs nor steps are given.

    Example:
        >>> made = training({"gradient_accumulation_steps": 2, "data_parallel": True}, num_epochs=3)
        >>> made.trainer["accumulate_grad_batches"], made.trainer["max_epochs"], list(made.dropped)
        (2, 3, ['data_parallel'])

    """
    if num_epochs is None and num_steps is None:
        raise ConfigError("Give num_epochs or num_steps, as to TextBrewer's train().")
    given = read(config, TRAINING, "TrainingConfig")
    trainer = {
        "accumulate_grad_batches": given["gradient_accumulation_steps"],
        "logger": TensorBoardLogger(given["log_dir"], name="", version="") if given["log_dir"] else False,
        **({"max_steps": num_steps} if num_steps is not None else {"max_epochs": num_epochs}),
        **({"gradient_clip_val": max_grad_norm} if max_grad_norm > 0 else {}),
        **(_by_steps(given) if num_steps is not None else _by_epochs(given)),
        **_hardware(given),
    }
    return Training(trainer, _dropped(given))


def _by_epochs(given: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints and validations a few times per epoch, or every few epochs; and a checkpoint after the last."""
    times, every = given["ckpt_frequency"], given["ckpt_epoch_frequency"]
    when = {"every_n_epochs": every, "save_on_train_epoch_end": times == 1}
    if every > 1:
        checkpoints = [_checkpoint(given, **when), _last(given)]
    else:  # the last validation is at the end; `save_last` is for a run without any
        checkpoints = [_checkpoint(given, save_last=times > 1, **when)]
    return {"callbacks": checkpoints, "check_val_every_n_epoch": every, "val_check_interval": 1.0 / times}


def _by_steps(given: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints and validations every few steps; and a checkpoint after the last."""
    if given["ckpt_steps"] is None:
        return {"callbacks": [_last(given)]}
    steps = int(given["ckpt_steps"])
    batches = steps * given["gradient_accumulation_steps"]
    checkpoints = [_checkpoint(given, every_n_train_steps=steps), _last(given)]
    return {"callbacks": checkpoints, "check_val_every_n_epoch": None, "val_check_interval": batches}


def _checkpoint(given: dict[str, Any], **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        given["output_dir"], filename="gs{step}", auto_insert_metric_name=False, save_top_k=-1, **when
    )


def _last(given: dict[str, Any]) -> ModelCheckpoint:
    """Keep `last.ckpt`, anew after every epoch and when the steps are done."""
    return ModelCheckpoint(
        given["output_dir"],
        filename="last",
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _hardware(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kind, _, index = str(given["device"] or "").partition(":")
    if kind:
        found["accelerator"] = "gpu" if kind == "cuda" else kind
        found["devices"] = [int(index)] if index and kind == "cuda" else 1
    if given["local_rank"] is not None and given["local_rank"] >= 0:
        found |= {"strategy": "ddp_find_unused_parameters_true", "devices": "auto"}
    if given["fp16"]:
        level = given["fp16_opt_level"]
        if level not in PRECISION:
            raise ConfigError(f"Unknown fp16_opt_level {level!r}. {hint(str(level), PRECISION)}")
        found["precision"] = PRECISION[level]
    return found


def _dropped(given: dict[str, Any]) -> dict[str, str]:
    """Return what has no counterpart, as far as the configuration uses it."""
    advice = {
        "data_parallel": "DataParallel is not supported. Use several processes: Trainer(strategy='ddp', devices=N).",
        "fp16": "Apex is not used. Trainer(precision=…) takes its place; 'bf16-mixed' needs no loss scaling.",
        "local_rank": "Processes number themselves. Start them with torchrun, or let Trainer(devices=N) do it.",
    }
    used = {
        "data_parallel": given["data_parallel"],
        "fp16": given["fp16"],
        "local_rank": given["local_rank"] is not None and given["local_rank"] >= 0,
    }
    return {name: advice[name] for name, is_used in used.items() if is_used}
