"""Killed at any moment and resumed, a run has logged what a run that was never killed has: each row once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from kd_lightning.core.errors import DamagedError
from kd_lightning.training.callbacks import LastCheckpoint
from kd_lightning.training.csv_logger import ResumableCSVLogger

from .test_last_checkpoint import BATCHES, At, Killed, fit, kill

SETTINGS: dict[str, dict[str, Any]] = {
    "every step": {"every": 1},
    "steps that do not divide": {"every": 3, "log_every_n_steps": 3},
    "windows of gradients": {"every": 2, "accumulate_grad_batches": 3},
    "validation amid an epoch": {"every": 3, "val_check_interval": 3, "log_every_n_steps": 2},
}


class KilledAfterSaving(LastCheckpoint):
    """Is killed when a checkpoint is there, and the row of its step is not."""

    def __init__(self, folder: Path, step: int, every: int) -> None:
        super().__init__(folder, every_n_train_steps=every, every_seconds=1e9)
        self.step = step

    def _save(self, trainer: pl.Trainer, *given: Any, **more: Any) -> None:
        super()._save(trainer, *given, **more)
        if trainer.global_step == self.step:
            kill()


def logged(folder: Path, *callbacks: pl.Callback, tensorboard: bool = False, **options: Any) -> None:
    loggers: list[Any] = [ResumableCSVLogger(folder)]
    loggers += [TensorBoardLogger(folder, "tensorboard", version="")] if tensorboard else []
    fit(folder, LearningRateMonitor("step"), *callbacks, logger=loggers, **options)


def content(folder: Path) -> list[list[str]]:
    with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as lines:
        return list(csv.reader(lines))


@pytest.mark.parametrize("options", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("validation", [False, True], ids=["training", "validation"])
def test_killed_twice_at_any_batch_the_csv_file_is_the_same(
    tmp_path: Path, options: dict[str, Any], validation: bool
) -> None:
    logged(tmp_path / "whole", **options)
    whole = content(tmp_path / "whole")
    assert len(whole) > 6
    places = [0, 1] if validation else range(0, 2 * BATCHES, 5)
    for first in places:
        folder = tmp_path / str(first)
        for place in (first, first + (1 if first + 1 < 2 * BATCHES else 0)) if not validation else (first,):
            with pytest.raises(Killed):
                logged(folder, At(place, kill, validation), **options)
        logged(folder, **options)
        assert content(folder) == whole, first


@pytest.mark.parametrize("every", [1, 2])
def test_killed_right_after_a_save_the_row_of_its_step_is_made_up(tmp_path: Path, every: int) -> None:
    logged(tmp_path / "whole", every=every)
    for step in (2, 4, BATCHES):
        with pytest.raises(Killed):
            logged(tmp_path / "cut", last=KilledAfterSaving(tmp_path / "cut", step, every), every=every)
    logged(tmp_path / "cut", every=every)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_second_fit_with_the_same_callback_starts_a_new_file(tmp_path: Path) -> None:
    last = LastCheckpoint(tmp_path / "elsewhere", every_n_train_steps=3)
    logged(tmp_path / "one", last=last)
    logged(tmp_path / "other", last=last)
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_resumed_from_lightnings_own_checkpoint_no_row_is_lost(tmp_path: Path) -> None:
    def fitted(folder: Path, *more: pl.Callback) -> None:
        last = ModelCheckpoint(folder, "last", every_n_train_steps=2, enable_version_counter=False)
        logged(folder, LastCheckpoint(folder / "other", every_n_train_steps=100), *more, last=last)

    fitted(tmp_path / "whole")
    for place in (5, 11):
        with pytest.raises(Killed):
            fitted(tmp_path / "cut", At(place, kill))
    fitted(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_rows_of_no_checkpoint_and_cut_ones_are_dropped(tmp_path: Path) -> None:
    logged(tmp_path / "whole", every=4)
    with pytest.raises(Killed):
        logged(tmp_path / "cut", At(6, kill), every=4)
    with (tmp_path / "cut" / "csv" / "version_0" / "metrics.csv").open("a") as file:
        file.write("0,0.1,0.")
    logged(tmp_path / "cut", every=4)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_killed_before_the_first_checkpoint_the_file_is_begun_anew(tmp_path: Path) -> None:
    logged(tmp_path / "whole", every=100)
    with pytest.raises(Killed):
        logged(tmp_path / "cut", At(6, kill), every=100)
    logged(tmp_path / "cut", every=100)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_without_the_callback_a_second_fit_starts_a_new_file(tmp_path: Path) -> None:
    for _ in range(2):
        logger = ResumableCSVLogger(tmp_path)
        logger.log_metrics({"loss": 1.0}, 0)
        logger.save()
        logger.log_metrics({"accuracy": 0.5}, 1)
        logger.save()
    assert content(tmp_path) == [["accuracy", "loss", "step"], ["", "1.0", "0"], ["0.5", "", "1"]]


def test_tensorboard_shows_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer as writer

    # Files of one second and process are read in the order of their names, in which 10 comes before 9.
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(1000))

    def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        # the step of a checkpoint may be there twice, with one value
        return {
            tag: [one for one, before in zip(own, [None, *own], strict=False) if one != before]
            for tag, own in found.items()
        }

    logged(tmp_path / "whole", tensorboard=True)
    for place in (4, 5, 9):
        with pytest.raises(Killed):
            logged(tmp_path / "cut", At(place, kill), tensorboard=True)
    with pytest.raises(Killed):
        logged(tmp_path / "cut", last=KilledAfterSaving(tmp_path / "cut", 12, 3), tensorboard=True)
    logged(tmp_path / "cut", tensorboard=True)
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_a_file_that_was_cut_before_the_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        logged(tmp_path, At(5, kill), every=4)
    file = tmp_path / "csv" / "version_0" / "metrics.csv"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 3])
    with pytest.raises(DamagedError, match=r"metrics\.csv is damaged: it has \d of the \d rows .* Delete it"):
        logged(tmp_path, every=4)
    file.unlink()
    logged(tmp_path, every=4)
    assert len(content(tmp_path)) > 1
