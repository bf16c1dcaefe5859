"""Reading TextBrewer's configurations."""

from __future__ import annotations

import copy
import json
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import textbrewer
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

import kd_lightning as kd
from kd_lightning.compat.textbrewer import adapter, objective, terms, training
from kd_lightning.core.errors import ConfigError

from ..toys import mlp, pairs, ready, trainer
from .theirs import adaptor, batches, distilled_by_them, models, our_module

FULL: dict[str, Any] = {
    "temperature": 8,
    "temperature_scheduler": ["flsw", 1.5, 2],
    "hard_label_weight": 0.5,
    "hard_label_weight_scheduler": "linear_growth",
    "kd_loss_type": "mse",
    "kd_loss_weight": 2,
    "kd_loss_weight_scheduler": "linear_decay",
    "probability_shift": True,
    "intermediate_matches": [
        {
            "layer_T": 4,
            "layer_S": 2,
            "feature": "hidden",
            "loss": "hidden_mse",
            "weight": 3,
            "proj": ["relu", 8, 16, {"lr": 0.5}],
        },
        {"layer_T": [0, 1], "layer_S": [0, 2], "feature": "hidden", "loss": "gram", "weight": 1},
        {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_ce_mean", "weight": 1},
        {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_ce_mean", "weight": 1},
    ],
}


def told(found: dict[str, kd.Term]) -> dict[str, Any]:
    return {
        name: (str(term.match), repr(term.loss), term.weight, term.schedule, repr(term.projection), term.projection_lr)
        for name, term in found.items()
    }


def test_a_dict_a_file_and_an_object_say_the_same(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(FULL))
    before = copy.deepcopy(FULL)
    expected = told(terms(FULL))
    assert before == FULL
    theirs = textbrewer.DistillationConfig.from_dict(copy.deepcopy(FULL))
    for config in (file, str(file), theirs, Namespace(**FULL, seed=0)):
        assert told(terms(config)) == expected


def test_what_a_configuration_becomes():
    found = objective(FULL).named_terms()
    assert {name: str(term.match) for name, term in found.items()} == {
        "logits": "logits ← logits",
        "hard": "loss",
        "hidden_mse_2_4": "hidden.2 ← hidden.4",
        "gram_0_2_0_1": "hidden.0+hidden.2 ← hidden.0+hidden.1",
        "attention_ce_mean_0_1": "attention.1 ← attention.2",
        "attention_ce_mean_0_1_again2": "attention.1 ← attention.2",
    }
    shift = found["logits"].loss
    assert isinstance(shift, kd.compat.textbrewer.ProbabilityShift)
    assert isinstance(shift.loss, kd.compat.textbrewer.LogitMSE)
    assert shift.loss.sample_temperature == kd.schedules.FLSW(1.5, 2)
    assert (found["logits"].weight, found["logits"].schedule) == (1.0, kd.schedules.LinearDecay())
    assert found["hidden_mse_2_4"].projection_lr == 0.5
    weight = found["hidden_mse_2_4"].projection[0].weight
    assert 0.01 < weight.std() < 0.03


def test_defaults_are_theirs():
    theirs, found = vars(textbrewer.DistillationConfig()), objective({}).named_terms()
    assert list(found) == ["logits"]
    assert found["logits"].weight == theirs["kd_loss_weight"]
    assert found["logits"].loss.temperature == theirs["temperature"]
    assert told(terms(textbrewer.DistillationConfig())) == told(found)


def test_a_scheduler_of_ones_own_is_a_schedule():
    found = terms(Namespace(kd_loss_weight=3, kd_loss_weight_scheduler=lambda x: x**2))["logits"]
    assert found.weight_at(0.5) == 0.25


def test_arguments_of_a_scheduler_may_be_named():
    found = terms({"temperature_scheduler": ["flsw", {"beta": 1, "gamma": 2}]})["logits"].loss
    assert found.sample_temperature == kd.schedules.FLSW(1, 2)


def entry(**changes: Any) -> dict[str, Any]:
    whole = {"layer_T": 1, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    kept = {key: value for key, value in (whole | changes).items() if value is not ...}
    return {"intermediate_matches": [kept]}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"temprature": 8}, "DistillationConfig has no argument 'temprature'. Closest: temperature"),
        ({"kd_loss_type": "kl"}, "`kd_loss_type` to be 'ce' or 'mse' but got 'kl'"),
        ({"kd_loss_weight_scheduler": "linear"}, "Unknown weight scheduler 'linear'. Closest: linear_"),
        ({"temperature_scheduler": "cosine"}, "Unknown temperature scheduler 'cosine'"),
        ({"temperature_scheduler": "flsw"}, r"'flsw' does not fit FLSW: .*beta"),
        ({"temperature_scheduler": ["cwsm", 1, 2, 3]}, "does not fit CWSM"),
        (entry(weight=...), "needs 'weight'"),
        (entry(layers=1), "has no argument 'layers'"),
        (entry(loss="hidden_mae"), "Unknown match loss 'hidden_mae'. Closest: hidden_mse"),
        (entry(feature="logits"), "'hidden' or 'attention' but got 'logits'"),
        (entry(layer_S=-1), "numbers from 0 on but got -1"),
        (entry(layer_S=[0, 1]), "compares one layer on each side"),
        (entry(loss="nst"), r"compares two layers, such as \[0, 3\], on each side, but got 1"),
        (entry(proj=["linear", 8]), r"Expected a projection to be \['linear', dim_S, dim_T\]"),
        (entry(proj=["linear", 8, 16, {"weight_decay": 0.1}]), "option 'weight_decay' of the projection"),
        ("nowhere.json", "DistillationConfig cannot be read from nowhere.json"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        objective(config)


def test_models_without_logits_are_matched_by_their_layers_alone():
    assert list(terms(entry(), logits=())) == ["hidden_mse_1_1"]


def test_an_unknown_place_of_features_is_an_error():
    with pytest.raises(ConfigError, match="'addresses' or 'adaptors' but got 'hooks'"):
        objective({}, features="hooks")  # type: ignore[arg-type]


def test_a_projection_of_other_widths_is_refused_before_the_first_step():
    teacher, student = models(width=8)
    with pytest.raises(kd.KDError, match="takes 4 features, but the student's width is 8"):
        our_module(entry(proj=["linear", 4, 16]), teacher, student)


# -- adaptors


def test_an_adapter_leaves_no_batch_in_a_copy():
    made = adapter(adaptor)
    assert made.inputs is not None
    made.inputs({"x": torch.zeros(2), "task": "a", "teacher_cache": None})
    assert b"torch" not in pickle.dumps(made.inputs)
    assert list(made.inputs({"x": 1, "task": "a", "teacher_cache": None})) == ["x"]


@pytest.mark.parametrize("mask", [torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.empty(0)], ids=["masked", "unmasked"])
def test_means_over_an_adaptors_tokens_are_counted(mask):
    """So that they are exact over several devices."""
    hidden = terms(entry(), features="adaptors")["hidden_mse_1_1"]
    student, teacher = {"hidden_1": torch.randn(2, 3, 4), "inputs_mask": mask}, {"hidden_1": torch.randn(2, 3, 4)}
    value, count = hidden(student, teacher, ())
    rows = mask.bool() if mask.numel() else torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(value, (student["hidden_1"] - teacher["hidden_1"])[rows].square().mean())
    assert count == rows.sum()


def test_an_adaptor_that_returns_no_dict_is_an_error():
    made = adapter(lambda batch, outputs: outputs)
    with pytest.raises(ConfigError, match="adaptor to return a dict but got Tensor"):
        made.outputs(torch.zeros(2))  # type: ignore[misc]


# -- Trainer arguments


def saved(folder: Any) -> set[str]:
    return {file.stem for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, set()),
        ({"ckpt_frequency": 2}, {"last"}),
        ({"ckpt_frequency": 4, "gradient_accumulation_steps": 1}, {"last"}),
        ({"gradient_accumulation_steps": 2}, set()),
    ],
    ids=str,
)
def test_checkpoints_are_saved_when_theirs_are(options, last, tmp_path):
    teacher, student = models()
    distilled_by_them(tmp_path, {}, teacher, student, batches(4), train={"num_epochs": 3}, **options)
    made = training({**options, "output_dir": tmp_path / "ours", "device": "cpu"}, num_epochs=3)
    module = our_module({}, teacher, student)
    rows = ready(batches(4))
    trainer(tmp_path, **{**made.trainer, "enable_checkpointing": True}).fit(module, rows, ready(batches(1)))
    assert saved(tmp_path / "ours") == saved(tmp_path / "theirs") | last


@pytest.mark.parametrize("validated", [True, False])
def test_checkpoints_every_few_epochs_and_after_the_last(validated, tmp_path):
    made = training({"ckpt_epoch_frequency": 2, "output_dir": tmp_path / "ours"}, num_epochs=3)
    term = kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())
    module = kd.DistillationModule(mlp(5), mlp(7), kd.Objective({"soft": term}))
    run = trainer(tmp_path, **{**made.trainer, "enable_checkpointing": True})
    run.fit(module, ready([pairs()] * 2), ready([pairs()]) if validated else None)
    assert saved(tmp_path / "ours") == {"gs4", "last"}
    assert torch.load(tmp_path / "ours" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_a_few_checkpoints_per_epoch_without_validation_are_the_last_one(tmp_path):
    made = training({"ckpt_frequency": 2, "output_dir": tmp_path / "ours"}, num_epochs=2)
    term = kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())
    module = kd.DistillationModule(mlp(5), mlp(7), kd.Objective({"soft": term}))
    trainer(tmp_path, **{**made.trainer, "enable_checkpointing": True}).fit(module, ready([pairs()] * 2))
    assert saved(tmp_path / "ours") == {"last"}


def test_arguments_of_the_trainer():
    config = {"gradient_accumulation_steps": 2, "log_dir": "logs", "device": "cuda:1", "fp16": True}
    made = training(config, num_epochs=3, max_grad_norm=1.0)
    found = made.trainer
    assert found["accumulate_grad_batches"] == 2
    assert (found["max_epochs"], found["gradient_clip_val"]) == (3, 1.0)
    assert (found["accelerator"], found["devices"], found["precision"]) == ("gpu", [1], "16-mixed")
    assert isinstance(found["logger"], TensorBoardLogger)
    assert Path(found["logger"].log_dir) == Path("logs")
    assert list(made.dropped) == ["fp16"]
    assert "max_steps" not in found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"device": "cpu"}, {"accelerator": "cpu", "devices": 1}),
        ({"device": torch.device("cuda")}, {"accelerator": "gpu", "devices": 1}),
        ({"device": "cuda", "local_rank": 0}, {"strategy": "ddp_find_unused_parameters_true", "devices": "auto"}),
        ({"fp16": True, "fp16_opt_level": "O3"}, {"precision": "16-true"}),
        ({"fp16": False, "fp16_opt_level": "O3"}, {}),
    ],
)
def test_hardware(config, expected):
    found = training(config, num_steps=1).trainer
    assert found.items() >= expected.items()
    assert not ({"accelerator", "devices", "strategy", "precision"} - {*expected, "accelerator"}) & found.keys()


def test_what_is_dropped_says_what_to_do():
    made = training({"data_parallel": True, "fp16": True, "local_rank": 1}, num_epochs=1)
    assert list(made.dropped) == ["data_parallel", "fp16", "local_rank"]
    assert "strategy='ddp'" in made.dropped["data_parallel"]


def test_their_own_object_is_read(tmp_path):
    theirs = textbrewer.TrainingConfig(output_dir=str(tmp_path), device="cpu", ckpt_steps=7)
    made = training(theirs, num_steps=20)
    run = Trainer(**made.trainer)
    assert run.max_steps == 20
    assert run.val_check_interval == 7
    assert [callback._every_n_train_steps for callback in run.checkpoint_callbacks] == [7, 0]
    assert not made.dropped


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        ({}, {}, "num_epochs or num_steps"),
        ({"fp16": True, "fp16_opt_level": "O9"}, {"num_epochs": 1}, "Unknown fp16_opt_level 'O9'"),
        ({"ckpt_freq": 1}, {"num_epochs": 1}, "TrainingConfig has no argument 'ckpt_freq'. Closest: ckpt_frequency"),
    ],
)
def test_training_that_cannot_be_is_an_error(config, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        training(config, **options)
