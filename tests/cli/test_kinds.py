"""Values of a kind that their argument does not take: one sentence that names the key, before anything is built."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.settle import settings_of, settle
from kd_lightning.core.errors import ConfigError


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    cfg = compose_config(["experiment=sst2_t3", "teacher=tiny_random", "match=[hidden_mse]"])
    settings_of(settle(copy.deepcopy(cfg)))
    return cfg  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("optimizer.lr", "abc", "'optimizer.lr' cannot be 'abc': it must be a number."),
        ("optimizer.lr", None, "'optimizer.lr' cannot be null: it must be a number."),
        ("optimizer.lr", "${data.name}", "'optimizer.lr' cannot be 'sst2': it must be a number."),
        ("teacher.optimizer.lr", [1], "'teacher.optimizer.lr' cannot be [1]: it must be a number."),
        ("teacher.trainer.max_epoch", 9, "'teacher.trainer.max_epoch' is no argument of lightning.pytorch.Trainer."),
        ("teacher.trainer", [], "'teacher.trainer' cannot be []: it must be a mapping."),
        ("teacher.path", ["a", "b"], "'teacher.path' cannot be ['a', 'b']: it must be a text or a mapping."),
        ("teacher.path", {"a": None}, "'teacher.path.a' cannot be null: it must be a text."),
        ("teacher.path", "", "'teacher.path' is empty: type teacher.path=VALUE, or null."),
        ("teacher.name", "../mine", "'teacher.name' names a folder, and cannot be '../mine': leave '/' out."),
        ("teacher.architecture", "bert", "'teacher.architecture' cannot be 'bert': it must be a mapping."),
        ("teacher.weights", [1], "'teacher.weights' cannot be [1]: it must be a text or a mapping."),
        ("teacher.compile", "abc", "'teacher.compile' cannot be 'abc': it must be true or false."),
        ("data.batch_size", None, "'data.batch_size' cannot be null: it must be a whole number."),
        ("data.max_length", None, "'data.max_length' cannot be null: it must be a whole number."),
        ("data.name", 3, "'data.name' cannot be 3: it must be a text."),
        ("data.extra", 3, "'data.extra' cannot be 3: it must be a text or a list."),
        ("data.extra", [None], "'data.extra[0]' cannot be null: it must be a text."),
        ("data.splits", "train", "'data.splits' cannot be 'train': it must be a mapping."),
        ("data.labels", "good", "'data.labels' cannot be 'good': it must be a list."),
        ("data.holdout", "abc", "'data.holdout' cannot be 'abc': it must be a number."),
        ("data.unlabelled_ratio", "abc", "'data.unlabelled_ratio' cannot be 'abc': it must be a number."),
        ("data.multilabel", "maybe", "'data.multilabel' cannot be 'maybe': it must be true or false."),
        ("objective.terms.hidden_mse.weight", "x", "'objective.terms.hidden_mse.weight' cannot be 'x'"),
        ("trainer.accumulate_grad_batches", -1, "'trainer.accumulate_grad_batches' cannot be -1: it is a whole"),
        ("trainer.precision", "bf61-mixed", "'trainer.precision' cannot be 'bf61-mixed'"),
        ("teacher.cache", 3, "'teacher.cache' cannot be 3: it must be a mapping."),
        ("objective.terms.logits.match", None, "'objective.terms.logits.match' cannot be null."),
        ("task.metrics", None, "'task.metrics' cannot be null: it must be a mapping."),
        ("tasks", 3, "'tasks' cannot be 3: it must be a mapping."),
        ("optimizer", {}, "'optimizer' says nothing of what to build: type optimizer=NAME. Choices: adamw, sgd."),
        ("task.metrics.accuracy", None, "task.metric=accuracy is not in task.metrics."),
        ("tau", -1.0, "'tau' is the exponent of the tasks' sizes, from 0, and cannot be -1.0."),
        ("trainer.val_check_interval", 0.0, "'trainer.val_check_interval' cannot be 0"),
        ("trainer.check_val_every_n_epoch", 0, "'trainer.check_val_every_n_epoch' cannot be 0"),
        ("trainer.callbacks", [], "'trainer.callbacks' would be ignored: it is made of the group 'callbacks'"),
        ("teacher.trainer.logger", False, "'teacher.trainer.logger' would be ignored"),
        ("data._recursive_", "abc", "'data._recursive_' cannot be 'abc': it must be true or false."),
        ("data._convert_", "nope", "'data._convert_' cannot be 'nope': it must be 'none' or"),
        ("task.metrics.foo", 1, "'task.metrics.foo' has no _target_, so nothing would be built from it."),
        ("student.path", [], "'student.path' cannot be []: it must be a text."),
        ("student.path", True, "'student.path' cannot be True: it must be a text."),
        ("student", {}, "'student' says nothing of what to build: type student=NAME."),
    ],
)
def test_a_value_of_another_kind_is_named(composed: DictConfig, key: str, value: Any, sentence: str) -> None:
    cfg = copy.deepcopy(composed)
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    with pytest.raises(ConfigError) as found:
        settings_of(settle(cfg))
    assert sentence in str(found.value)


def test_what_an_argument_takes_passes(composed: DictConfig) -> None:
    cfg = copy.deepcopy(composed)
    OmegaConf.set_struct(cfg, False)
    for key, value in (
        ("optimizer.lr", 1),
        ("data.extra", ["a"]),
        ("data.text", ["a", "b"]),
        ("trainer.devices", "auto"),
    ):
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    settings_of(settle(cfg))


@pytest.mark.parametrize(("key", "value"), [("max_steps", 3), ("max_time", "00:01:00:00")])
def test_steps_or_hours_may_end_the_training_alone(composed: DictConfig, key: str, value: Any) -> None:
    cfg = copy.deepcopy(composed)
    OmegaConf.update(cfg, "trainer.max_epochs", -1)
    with pytest.raises(ConfigError, match=r"'trainer.max_epochs' is -1, so nothing ends the training"):
        settings_of(settle(copy.deepcopy(cfg)))
    OmegaConf.update(cfg, f"trainer.{key}", value, force_add=True)
    settings_of(settle(cfg))
