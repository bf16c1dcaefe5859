"""What loggers had of a run when a checkpoint was saved: a resumed run logs what is missing, and nothing twice."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from kd_lightning.training.csv_logger import ResumableCSVLogger


def hold(trainer: Trainer) -> None:
    """Have CSV files left alone until it is known after which row a run goes on."""
    for logger in _csv(trainer):
        logger.hold()


def note(trainer: Trainer) -> dict[str, Any]:
    """Sync what was logged and return what a checkpoint keeps of it, plain values.

    Lightning logs a step's row after the callbacks that save at its end; such a row is kept in the checkpoint.
    """
    loop = trainer.fit_loop.epoch_loop
    total: Any = loop.batch_progress.total
    step = loop._batches_that_stepped
    row = _coming(trainer) if total.processed > total.completed else None
    rows = []
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, ResumableCSVLogger):
            logger.sync()
            rows.append(logger.rows)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()  # else it is two minutes behind
    return {"rows": rows, "row": row, "step": step}


def go_on(trainer: Trainer, noted: dict[str, Any] | None) -> None:
    """Take back what was logged after a checkpoint, and log what was not logged before it.

    Args:
        trainer: at the start of a fit.
        noted: what `note` returned; None: nothing is known, as of a checkpoint of an earlier version.

    """
    known = noted is not None or trainer.ckpt_path is None
    noted = noted or {"rows": [], "row": None, "step": None}
    loggers = _csv(trainer)
    rows = [*noted["rows"], *[0 if known else None] * len(loggers)]
    for logger, kept in zip(loggers, rows, strict=False):
        logger.go_on(kept)
    if trainer.is_global_zero and noted["step"] is not None:
        _purge(trainer, noted["step"] + 1)
    if noted["row"] is not None:
        for any_logger in trainer.loggers:
            any_logger.log_metrics(noted["row"], noted["step"])
            any_logger.save()


def _csv(trainer: Trainer) -> list[ResumableCSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger)]


def _coming(trainer: Trainer) -> dict[str, Any] | None:
    """Return what Lightning is about to log of the step that ends."""
    connector = trainer._logger_connector
    if not (trainer.loggers and connector.should_update_logs):
        return None
    row = convert_tensors_to_scalars(connector.metrics["log"])
    return {"epoch": trainer.current_epoch, **row} if row else None


def _purge(trainer: Trainer, step: int) -> None:
    """Have TensorBoard forget what was logged from a step on, as its writer's own `purge_step` does.

    The step of the checkpoint itself may then be there twice, with one value.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            writer = logger.experiment._get_file_writer()
            writer.add_event(Event(step=step, file_version="brain.Event:2"))
            writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
