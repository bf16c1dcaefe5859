"""A plain Trainer with Lightning's own checkpoints of every n steps: no validation is lost by a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import kd_lightning as kd
from kd_lightning.training.callbacks import LastCheckpoint, StepSeed

from ..toys import mlp, pairs, ready, trainer
from .modules_of_users import Classifier
from .test_last_checkpoint import BATCHES, At, Killed, kill, module, same


class Validated(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("val/loss", loss, batch_size=len(x))
        return loss


class Seen(pl.Callback):
    """Notes the step of each validation that ended."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_validation_end(self, runner: Any, _: Any) -> None:
        self.steps.append(runner.global_step)


def by_module() -> tuple[pl.LightningModule, list[pl.Callback]]:
    return module(), []


def by_callback() -> tuple[pl.LightningModule, list[pl.Callback]]:
    terms = {"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0))}
    return Validated(), [kd.DistillationCallback(mlp(7, seed=1), kd.Objective(terms))]


def lightnings(folder: Path) -> pl.Callback:
    return pl.callbacks.ModelCheckpoint(folder, "last", every_n_train_steps=4, enable_version_counter=False)


def ours(folder: Path) -> pl.Callback:
    return LastCheckpoint(folder, every_n_train_steps=4, every_seconds=1e9)


def fit(folder: Path, how: Any, steps: list[int], *more: pl.Callback, **options: Any) -> Any:
    """Train on from `last.ckpt`, if there is one; return the weights, the best validation loss and its weights."""
    (made, callbacks), last = how[0](), how[1](folder)
    best = pl.callbacks.ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False)
    begin = folder / "last.ckpt" if (folder / "last.ckpt").is_file() else None
    runner = trainer(
        folder, callbacks=[StepSeed(3), *callbacks, last, best, *more, Seen(steps)], max_epochs=2,
        enable_checkpointing=True, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    rows, order = [*range(BATCHES)], kd.data.TrainBatches([1] * BATCHES, 1)
    batches = kd.data.Loader(rows, order, lambda batch: pairs(seed=batch[0]))
    runner.fit(made, batches, ready([pairs(seed=90), pairs(seed=91)]), ckpt_path=begin, weights_only=True)
    chosen = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    return made.state_dict(), float(best.best_model_score), chosen


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a module": ((by_module, lightnings), {}),
    "a callback": ((by_callback, lightnings), {}),
    "our own checkpoint": ((by_module, ours), {"accumulate_grad_batches": 2}),
    "accumulated": ((by_module, lightnings), {"accumulate_grad_batches": 2}),
    "amid an epoch": ((by_callback, lightnings), {"val_check_interval": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_in_any_validation_it_is_made_again(tmp_path: Path, case: str) -> None:
    (how, options), steps = CASES[case], []
    whole, score, best = fit(tmp_path / "whole", how, steps, **options)
    for number in range(len(steps)):
        folder, seen = tmp_path / str(number), []
        with pytest.raises(Killed):
            fit(folder, how, seen, KilledInValidation(number), **options)
        found = fit(folder, how, seen, **options)
        assert seen[-len(steps) + number :] == steps[number:], number
        assert same(found[0], whole)
        assert same(found[2], best)
        assert found[1] == score


@pytest.mark.parametrize("how", [(by_module, lightnings), (by_callback, lightnings), (by_module, ours)])
@pytest.mark.parametrize("amid", [{}, {"val_check_interval": 4}], ids=["", "validation amid an epoch"])
def test_killed_twice_no_gradient_of_a_window_is_lost(tmp_path: Path, how: Any, amid: dict[str, Any]) -> None:
    """The second time right after it was resumed, amid the next window of accumulated gradients."""
    options = {"accumulate_grad_batches": 2, **amid}
    whole = fit(tmp_path / "whole", how, [], **options)[0]
    for batch in (BATCHES + 3, BATCHES + 1):  # the checkpoint of step 4 is that of the first BATCHES batches
        with pytest.raises(Killed):
            fit(tmp_path / "cut", how, [], At(batch, kill), **options)
    assert same(fit(tmp_path / "cut", how, [], **options)[0], whole)


class KilledInValidation(pl.Callback):
    """Is killed in the first batch of the validation of this number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def on_validation_start(self, *_: Any) -> None:
        self.left -= 1

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.left < 0:
            kill()


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 2}])
def test_where_no_validation_follows_the_step_is_saved_as_ever(tmp_path: Path, options: dict[str, Any]) -> None:
    saved: list[int] = []
    look = At(BATCHES, lambda: saved.append((tmp_path / "last.ckpt").is_file()))

    made, _ = by_module()
    last = pl.callbacks.ModelCheckpoint(tmp_path, "last", every_n_train_steps=BATCHES, enable_version_counter=False)
    runner = trainer(tmp_path, callbacks=[look, last], max_epochs=2, enable_checkpointing=True, **options)
    runner.fit(made, ready([pairs(seed=i) for i in range(BATCHES)]), ready([pairs(seed=90)]))
    assert saved == [True]
