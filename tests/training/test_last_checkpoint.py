"""The checkpoint to resume from: whole windows of gradients, after validation, and the one before it kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS
from kd_lightning.core.errors import Stopped
from kd_lightning.training.callbacks import LastCheckpoint, StepSeed
from kd_lightning.training.checkpoint_io import DurableCheckpointIO, before, is_whole, resumable

from ..toys import mlp, pairs, ready, trainer

BATCHES = 8


class At(pl.Callback):
    """Calls a function at the end of a training batch, or of a validation batch, that has this number."""

    def __init__(self, number: int, call: Callable[[], Any], validation: bool = False) -> None:
        self.number, self.call, self.validation = number, call, validation

    def on_train_batch_end(self, runner: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.validation and runner.fit_loop.epoch_loop.total_batch_idx == self.number:
            self.call()

    def on_validation_batch_end(self, runner: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.validation and batch_idx == self.number:
            self.call()


class Killed(Exception):
    """Ends a fit as a kill would, without a farewell of callbacks that save."""


def kill() -> None:
    raise Killed


def module() -> kd.DistillationModule:
    objective = kd.Objective({
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0)),
    })  # fmt: skip
    optimizer = partial(torch.optim.AdamW, lr=0.05)
    return kd.DistillationModule(mlp(8), mlp(16, seed=1), objective, optimizer)


def fit(folder: Path, *callbacks: pl.Callback, every: int = 3, epochs: int = 2, validate: bool = True, **options: Any):
    """Train from the last checkpoint in a folder, if there is one; return the weights and the callback."""
    last = options.pop("last", None) or LastCheckpoint(folder, every_n_train_steps=every, every_seconds=1e9)
    made, begin = module(), resumable(folder / "last.ckpt")
    plugins = [DurableCheckpointIO()]
    runner = trainer(
        folder, callbacks=[StepSeed(3), *callbacks, last], max_epochs=epochs, enable_checkpointing=True,
        limit_val_batches=2 if validate else 0, num_sanity_val_steps=0, plugins=plugins, **options,
    )  # fmt: skip
    batches = kd.data.Loader(
        [*range(BATCHES)], kd.data.TrainBatches([1] * BATCHES, 1), lambda rows: pairs(seed=rows[0])
    )
    runner.fit(made, batches, ready([pairs(seed=90), pairs(seed=91)]), ckpt_path=begin, weights_only=True)
    return made.state_dict(), last


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_killed_at_any_batch_twice_a_run_ends_like_one_never_killed(tmp_path: Path, accumulate: int) -> None:
    options = {"accumulate_grad_batches": accumulate, "every": 2}
    whole, _ = fit(tmp_path / "whole", **options)
    for first in range(4, 2 * BATCHES, 3):
        folder = tmp_path / str(first)
        for place in (first, min(first + 1, 2 * BATCHES - 1)):
            with pytest.raises(Killed):
                fit(folder, At(place, kill), **options)
        assert same(fit(folder, **options)[0], whole), first


def test_lightnings_own_checkpoint_survives_two_kills_too(tmp_path: Path) -> None:
    def save(folder: Path) -> dict[str, Any]:
        last = pl.callbacks.ModelCheckpoint(folder, "last", every_n_train_steps=2, enable_version_counter=False)
        return {"last": last, "accumulate_grad_batches": 3, "validate": False}

    whole, _ = fit(tmp_path / "whole", **save(tmp_path / "whole"))
    for first in range(6, 2 * BATCHES - 2):
        folder = tmp_path / str(first)
        for place in (first, first + 1):
            with pytest.raises(Killed):
                fit(folder, At(place, kill), **save(folder))
        assert same(fit(folder, **save(folder))[0], whole), first


def test_what_was_due_before_a_validation_is_saved_after_it(tmp_path: Path) -> None:
    seen: list[int] = []
    look = At(1, lambda: seen.append(step_of(tmp_path / "last.ckpt")), validation=True)
    fit(tmp_path, look, every=4, epochs=1)
    assert seen == [4]
    assert step_of(tmp_path / "last.ckpt") == BATCHES


def test_killed_in_a_validation_it_is_made_again(tmp_path: Path) -> None:
    validations: list[int] = []
    with pytest.raises(Killed):
        fit(tmp_path, At(0, kill, validation=True), every=4, epochs=1)
    fit(tmp_path, At(1, lambda: validations.append(1), validation=True), every=4, epochs=1)
    assert validations == [1]


def stopped_in_validation(folder: Path, *callbacks: pl.Callback) -> None:
    with pytest.raises(Stopped):
        fit(folder, *callbacks, At(0, lambda: os.kill(os.getpid(), signal.SIGTERM), validation=True), every=1000)


def killed_after_it(folder: Path, *callbacks: pl.Callback) -> None:
    with pytest.raises(Killed):
        fit(folder, *callbacks, At(BATCHES + 1, kill), every=BATCHES)


@pytest.mark.parametrize("cut", [stopped_in_validation, killed_after_it])
def test_what_was_best_before_a_resumption_is_remembered(tmp_path: Path, cut: Callable[..., None]) -> None:
    def best(folder: Path) -> Any:
        node = OmegaConf.to_container(OmegaConf.load(CONFIGS / "callbacks" / "default.yaml").best, resolve=False)
        return instantiate(node, dirpath=str(folder), monitor="val/loss", mode="min")  # the first epoch's

    fit(tmp_path / "whole", best(tmp_path / "whole"), every=BATCHES)
    cut(tmp_path / "cut", best(tmp_path / "cut"))
    fit(tmp_path / "cut", best(tmp_path / "cut"), every=BATCHES)
    assert step_of(tmp_path / "whole" / "best.ckpt") == step_of(tmp_path / "cut" / "best.ckpt") == BATCHES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("validation", [False, True])
def test_a_signal_saves_and_stops(tmp_path: Path, number: signal.Signals, validation: bool) -> None:
    options = {"accumulate_grad_batches": 2, "every": 1000}
    whole, _ = fit(tmp_path / "whole", **options)
    handler = signal.getsignal(number)
    send = At(0 if validation else 4, lambda: os.kill(os.getpid(), number), validation)
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path / "cut", send, **options)
    saved = 4 if validation else 3  # batch 4, the fifth, is the first of a window of two
    assert (stopped.value.code, stopped.value.saved) == (128 + number, f"step {saved}")
    assert step_of(tmp_path / "cut" / "last.ckpt") == saved
    assert signal.getsignal(number) is handler
    assert same(fit(tmp_path / "cut", **options)[0], whole)


def test_a_signal_in_a_validation_amid_accumulated_gradients_waits_for_them(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 3, "val_check_interval": 4, "every": 1000}
    whole, _ = fit(tmp_path / "whole", **options)
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path / "cut", At(0, lambda: os.kill(os.getpid(), signal.SIGTERM), validation=True), **options)
    assert stopped.value.saved == "step 2"  # the validation is after batch four, the first of the second window
    assert same(fit(tmp_path / "cut", **options)[0], whole)


def test_what_a_killed_write_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.123.tmp").write_bytes(b"half")
    fit(tmp_path, epochs=1)
    assert not list(tmp_path.glob(".*"))


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, At(4, twice), every=1000)
    assert not stopped.value.saved
    assert not (tmp_path / "last.ckpt").exists()


def test_the_clock_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 25))
    monkeypatch.setattr("kd_lightning.training.callbacks.last_checkpoint.time.monotonic", lambda: next(now))
    saved: list[int] = []
    save = pl.Trainer.save_checkpoint
    monkeypatch.setattr(
        pl.Trainer, "save_checkpoint", lambda self, *given: saved.append(self.global_step) or save(self, *given)
    )
    last = LastCheckpoint(tmp_path, every_n_train_steps=1000, every_seconds=60)
    runner = trainer(tmp_path, callbacks=[last], max_steps=BATCHES, enable_checkpointing=True, limit_val_batches=0)
    runner.fit(module(), ready([pairs(seed=i) for i in range(BATCHES)]))
    assert saved == [3, 6]  # 25 seconds from look to look, and from a look to the save after it


@pytest.mark.parametrize("cut", [0, 0.5, -1])
def test_a_cut_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, cut: float, caplog: Any) -> None:
    fit(tmp_path, every=3, validate=False)
    last = tmp_path / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: int(cut * len(content)) if cut >= 0 else -1])
    assert not is_whole(last)
    assert resumable(last) == before(last)
    assert "is damaged and skipped" in caplog.text
    before(last).write_bytes(b"")
    assert resumable(last) is None


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 1}, path)
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"half") and kill())
    with pytest.raises(Killed):
        DurableCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 2}, path)
    assert step_of(path) == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]
