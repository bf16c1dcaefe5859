from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from kd_lightning.cli.build import (
    build_data,
    build_student,
    build_trainer,
    check_whole,
    fresh_teacher,
    hard_only,
    load_tokenizer,
    on_one_device,
    teacher_data,
)
from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.teacher import check_labels, check_teacher, load_teacher
from kd_lightning.cli.train import settle
from kd_lightning.core.errors import ConfigError
from kd_lightning.data.text.synthetic import word_tokenizer


@pytest.fixture
def cfg(on_films: list[str]) -> Any:
    return compose_config([*on_films, "teacher.architecture.num_hidden_layers=2"])


@pytest.fixture
def data(cfg: Any) -> Any:
    made = build_data(cfg)
    made.tokenizer = load_tokenizer(cfg, made)
    return made


def test_a_model_that_is_nowhere_is_one_sentence_with_the_ways_out(cfg: Any, data: Any) -> None:
    cfg.teacher.pretrained = "no-such-model-of-mine"
    with pytest.raises(ConfigError, match=r"Cannot load 'no-such-model-of-mine'.*teacher\.path=DIR.*minilm_l6"):
        fresh_teacher(cfg, data)


def test_a_teacher_with_another_tokenizer_keeps_it_beside_the_datas_own() -> None:
    synthetic = compose_config(["data=synthetic"])
    own = build_data(synthetic).tokenizer
    same = build_data(synthetic, own)
    assert (same.tokenizer.get_vocab(), same.teacher_tokenizer) == (own.get_vocab(), None)
    other = build_data(synthetic, word_tokenizer(["good", "film"]))
    assert other.tokenizer.get_vocab() == own.get_vocab()
    assert len(other.teacher_tokenizer) == 6


def test_the_students_tokenizer_may_be_made_from_the_training_text(cfg: Any) -> None:
    cfg.data.tokenizer = "train"
    data = build_data(cfg, word_tokenizer(["good", "film"]))
    assert data.tokenizer.tokenize("a good film") == ["a", "good", "film"]
    assert len(data.teacher_tokenizer) == 6
    assert teacher_data(cfg).tokenizer.get_vocab() == data.tokenizer.get_vocab()  # a random teacher brings none


def test_the_students_tokenizer_may_be_a_models(cfg: Any, data: Any, tmp_path: Path) -> None:
    data.tokenizer.save_pretrained(tmp_path)
    cfg.data.tokenizer = str(tmp_path)
    assert build_data(cfg).tokenizer.get_vocab() == data.tokenizer.get_vocab()
    cfg.data.tokenizer = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="Cannot load"):
        build_data(cfg)


def test_the_data_gets_the_teachers_tokenizer(cfg: Any) -> None:
    tokenizer = word_tokenizer(["good", "film"])
    assert build_data(cfg, tokenizer).tokenizer is tokenizer


def test_a_teacher_for_other_labels_is_refused(cfg: Any, data: Any) -> None:
    check_labels(fresh_teacher(cfg, data), 2, Path("here"))
    with pytest.raises(ConfigError, match="tells 2 labels apart, but the data has 5"):
        check_labels(fresh_teacher(cfg, data), 5, Path("here"))


def test_a_teacher_with_the_labels_in_another_order_is_refused(cfg: Any, data: Any) -> None:
    teacher = fresh_teacher(cfg, data)
    check_labels(teacher, 2, Path("here"), {0: "no", 1: "yes"})  # it does not say what its labels are
    teacher.config.id2label = {0: "yes", 1: "no"}
    check_labels(teacher, 2, Path("here"), {0: "yes", 1: "no"})
    check_labels(teacher, 2, Path("here"))
    with pytest.raises(ConfigError, match="here numbers its labels yes, no, but the data no, yes"):
        check_labels(teacher, 2, Path("here"), {0: "no", 1: "yes"})


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["data=stsb", "task=classification"], "This data has numbers to predict. Type task=regression."),
        (["data=rte", "task=regression"], "This data has classes. Type task=classification."),
    ],
)
def test_a_task_that_is_not_the_datas_is_refused(typed: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_teacher(compose_config(typed))


def test_a_random_teacher_gets_a_vocabulary_of_the_training_text(cfg: Any, data: Any) -> None:
    assert data.tokenizer.tokenize("a good FILM") == ["a", "good", "film"]
    assert data.tokenizer("film").input_ids[0] == data.tokenizer.cls_token_id
    again = load_tokenizer(cfg, build_data(cfg))
    assert again.get_vocab() == data.tokenizer.get_vocab()
    teacher = fresh_teacher(cfg, data)
    assert (teacher.config.vocab_size, teacher.config.num_labels) == (len(data.tokenizer), 2)
    assert teacher.config.pad_token_id == data.tokenizer.pad_token_id


def test_students_take_vocabulary_and_labels_from_the_data(cfg: Any, data: Any) -> None:
    student = build_student(cfg, fresh_teacher(cfg, data), data)
    assert (student.config.vocab_size, student.config.num_labels) == (len(data.tokenizer), 2)


def test_a_student_may_start_from_a_saved_one_and_brings_its_tokenizer(cfg: Any, data: Any, tmp_path: Path) -> None:
    general = build_student(compose_config(["data=mlm", "student.hidden_size=24"]), None, data)
    general.save_pretrained(tmp_path / "student")
    data.tokenizer.save_pretrained(tmp_path / "student")
    cfg.student.path = str(tmp_path / "student")
    own = build_data(cfg)
    assert own.tokenizer.get_vocab() == data.tokenizer.get_vocab()
    student = build_student(cfg, fresh_teacher(cfg, data), own)
    before, after = general.base_model.state_dict(), student.base_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (student.config.num_labels, student.config.hidden_size) == (2, 24)
    other = build_data(cfg, word_tokenizer(["good", "film"]))
    assert len(other.teacher_tokenizer) == 6  # a teacher with another vocabulary: two tokenizers
    own.tokenizer = word_tokenizer(["good", "film"])
    with pytest.raises(ConfigError, match=r"has a tokenizer of its own, and the data another"):
        build_student(cfg, None, own)
    cfg.student.path = str(tmp_path / "studnet")
    with pytest.raises(ConfigError, match=r"student\.path=.*holds no saved model.*Closest: .*student"):
        build_data(cfg)


def test_a_teacher_with_a_new_head_that_is_never_trained_is_refused(data: Any, tmp_path: Path) -> None:
    cfg = compose_config(["data=mlm", "student.hidden_size=24", "teacher=bert_base", f"teacher.pretrained={tmp_path}"])
    cfg.teacher.trainer.max_epochs = 0
    model = build_student(cfg, None, data)
    model.save_pretrained(tmp_path)
    again = fresh_teacher(cfg, data)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model.base_model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no head for masked-lm.*type teacher\.trainer\.max_epochs=1"):
        fresh_teacher(cfg, data)
    cfg.teacher.trainer.max_epochs = 1
    fresh_teacher(cfg, data)


def test_a_given_teacher_without_the_tasks_head_is_refused(cfg: Any, data: Any, tmp_path: Path) -> None:
    teacher: Any = fresh_teacher(cfg, data)
    teacher.save_pretrained(tmp_path)
    data.tokenizer.save_pretrained(tmp_path)
    assert load_teacher(tmp_path, "sequence-classification")[0].config.num_labels == 2
    with pytest.raises(ConfigError, match=r"not fine-tuned for masked-lm: it has no cls.*teacher\.pretrained"):
        load_teacher(tmp_path, "masked-lm")


def test_a_student_may_be_a_whole_model_of_ones_own(cfg: Any, data: Any) -> None:
    cfg.student = OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3})
    assert isinstance(build_student(cfg, nn.Identity(), data), nn.Linear)


def test_relative_folders_become_absolute(on_films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = settle(compose_config([*on_films, "data.root=some/data", "teacher.path=a/teacher"]))
    assert (cfg.data.root, cfg.teacher.path) == (str(tmp_path / "some/data"), str(tmp_path / "a/teacher"))
    (tmp_path / "more.txt").touch()
    more = settle(compose_config(["data=sst2", "data.unlabelled=more.txt", "student.path=run/student"]))
    assert (more.data.unlabelled, more.student.path) == (str(tmp_path / "more.txt"), str(tmp_path / "run/student"))
    assert settle(compose_config(["data=sst2", "data.unlabelled=cola"])).data.unlabelled == "cola"  # below data.root
    assert settle(compose_config([*on_films, "data.root='~/data'"])).data.root == str(Path("~/data").expanduser())
    assert settle(compose_config(["data=synthetic"])).teacher.path is None


def test_folders_of_callbacks_and_loggers_are_below_the_stage(cfg: Any, tmp_path: Path) -> None:
    trainer = build_trainer(cfg, tmp_path)
    assert {callback.dirpath for callback in trainer.checkpoint_callbacks} == {str(tmp_path / "checkpoints")}
    assert {Path(logger.save_dir) for logger in trainer.loggers} == {tmp_path}
    cfg.logger.csv.save_dir = "/elsewhere"
    assert Path(build_trainer(cfg, tmp_path).loggers[0].save_dir) == Path("/elsewhere")


def test_null_turns_callbacks_and_loggers_off(cfg: Any, tmp_path: Path) -> None:
    cfg.logger.csv = cfg.logger.tensorboard = cfg.callbacks.best = cfg.callbacks.last = None
    trainer = build_trainer(cfg, tmp_path)
    assert not trainer.loggers
    assert not [callback for callback in trainer.checkpoint_callbacks if callback.dirpath]


def test_stages_before_several_processes_have_one() -> None:
    one = on_one_device(compose_config(["trainer=ddp_cpu"])).trainer
    assert (one.devices, one.strategy, one.num_nodes, one.accelerator) == (1, "auto", 1, "cpu")


def test_learning_from_labels_alone_uses_the_experiments_loss(cfg: Any) -> None:
    cfg.objective.terms.hard.loss = OmegaConf.create({"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1})
    assert hard_only(cfg).declared["hard"].loss.label_smoothing == 0.1
    without = compose_config(["~objective.terms.hard"])
    assert list(hard_only(without).declared) == ["hard"]


@pytest.mark.parametrize("value", ["many", 1.5, True, -1])
def test_counts_are_whole_numbers(value: object) -> None:
    check_whole("data.limit", None)
    check_whole("data.limit", 3)
    with pytest.raises(ConfigError, match=r"'data\.limit' cannot be .*whole number"):
        check_whole("data.limit", value)


def test_a_pretrained_student_is_fed_by_its_own_tokenizer(cfg: Any, data: Any, tmp_path: Path) -> None:
    fresh_teacher(cfg, data).save_pretrained(tmp_path)
    data.tokenizer.save_pretrained(tmp_path)
    cfg.student = {"_target_": "kd_lightning.models.pretrained", "_partial_": True, "name": str(tmp_path)}
    made = build_data(cfg, word_tokenizer(["good", "film"]))
    assert made.tokenizer.get_vocab() == data.tokenizer.get_vocab()
    assert len(made.teacher_tokenizer) == 6
    made.tokenizer = word_tokenizer(["good", "film"])
    with pytest.raises(ConfigError, match="has a tokenizer of its own, and the data another"):
        build_student(cfg, None, made)


def test_a_data_module_that_knows_no_tokenizer_is_given_one(cfg: Any, data: Any, tmp_path: Path) -> None:
    data.tokenizer.save_pretrained(tmp_path)
    cfg.teacher.pretrained = str(tmp_path)
    cfg.data = {"_target_": "kd_lightning.data.TokenDataModule", "num_labels": 2}
    assert teacher_data(cfg).tokenizer.get_vocab() == data.tokenizer.get_vocab()
    student = build_student(cfg, None, build_data(cfg, data.tokenizer))
    assert student.config.vocab_size == len(data.tokenizer)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["data=rte", "task=tagging"], "made for sequence-classification, and the task is token-class.*task=classific"),
        (["data=squad", "task=classification"], "made for question-answering, .*Type task=question_answering"),
        (["data=synthetic", "task=masked_lm"], "made for sequence-classification, and the task is masked-lm"),
        (["data=mlm", "task=tagging"], "Type task=masked_lm"),
        (["data=conll2003", "task=question_answering"], "Type task=tagging"),
    ],
)
def test_a_task_with_a_head_that_the_data_is_not_made_for_is_refused(typed: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_teacher(compose_config(typed))


def test_tasks_that_share_a_head_share_data() -> None:
    check_teacher(compose_config(["data=rte", "task=matthews"]))
    check_teacher(compose_config(["data=squad"]))


def two_layers(like: Any, num_labels: int, vocab_size: int, pad_token_id: int) -> Any:
    """A builder of somebody's own, for classification and nothing else."""
    from kd_lightning.models.shrink import shrink

    sizes = {"num_labels": num_labels, "vocab_size": vocab_size, "pad_token_id": pad_token_id}
    return shrink(like, **sizes, num_hidden_layers=2)


def test_a_builder_of_ones_own_is_told_sizes_and_labels_only(
    cfg: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_lightning.cli.build.instantiate", lambda node: partial(two_layers))
    student = build_student(cfg, fresh_teacher(cfg, data), data)
    assert (student.config.num_hidden_layers, student.config.num_labels) == (2, 2)
