from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.image import imread

import kd_lightning as kd
from kd_lightning.training.callbacks.layer_flow import LayerFlow, draw_flow

from ..toys import OfAUser, bert, ready, trainer, words


def objective() -> kd.Objective:
    return kd.Objective(
        {
            "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
            "maps": kd.MatchScheme("attention", kd.losses.AttentionMSE(), layers="emd"),
            "states": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers="emd", projection="linear"),
        }
    )


def fit(module: Any, folder: Any, *callbacks: pl.Callback, **options: Any) -> None:
    trainer(folder, max_epochs=1, callbacks=[*callbacks, LayerFlow()], **options).fit(module, ready([words()]))


NAMES = ["layer_flow_maps.png", "layer_flow_states.png"]


@pytest.mark.parametrize("callback", [False, True])
def test_every_learned_map_becomes_a_picture_with_the_callback_too(tmp_path, callback):
    teacher = bert(3, 24, seed=1)
    if callback:
        fit(OfAUser(), tmp_path, kd.DistillationCallback(teacher, objective()))
    else:
        fit(kd.DistillationModule(bert(2), teacher, objective()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    picture = imread(tmp_path / NAMES[0])
    assert picture.std() > 0.01


def test_tensorboard_gets_the_pictures_and_other_loggers_are_skipped(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="tb", version=0)]
    fit(kd.DistillationModule(bert(2), bert(3, 24, seed=1), objective()), tmp_path, logger=loggers)
    events = EventAccumulator(str(tmp_path / "tb" / "version_0"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["layer_flow/maps", "layer_flow/states"]


def test_without_a_learned_map_nothing_is_written(tmp_path):
    terms = {"logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())}
    fit(kd.DistillationModule(bert(2), bert(3), kd.Objective(terms)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_first_rank_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    fit(kd.DistillationModule(bert(2), bert(3, 24, seed=1), objective()), tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_a_picture_has_a_row_per_teacher_layer_and_a_column_per_student_layer():
    flow = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.25, 0.25]])
    axes = draw_flow(flow, ["hidden.2", "hidden.4"], ["hidden.1", "hidden.2", "hidden.3"]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    shown = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert shown == {((0, 0), "50"), ((1, 1), "25"), ((1, 2), "25")}
