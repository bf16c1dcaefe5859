from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from kd_lightning.cli.checks import check_whole
from kd_lightning.cli.configs import compose_config
from kd_lightning.cli.settle import settle
from kd_lightning.core.errors import ConfigError
from kd_lightning.data import DataModule
from kd_lightning.data.text.synthetic import word_tokenizer
from kd_lightning.models.shrink import shrink
from kd_lightning.pipeline.build import build_trainer, quiet_trainer
from kd_lightning.pipeline.checks import check_labels
from kd_lightning.pipeline.run import stages_of
from kd_lightning.pipeline.setup import TaskSetup, student_setup, teacher_setup
from kd_lightning.pipeline.teacher_model import load_teacher

from .making import run_settings, task_settings

TWO_LAYERS = "teacher.architecture.num_hidden_layers=2"


def made(typed: list[str]) -> TaskSetup:
    """The setup of a run's one task, as its teacher's training has it."""
    return teacher_setup(task_settings(typed))


def with_settings(setup: TaskSetup, typed: list[str], **changes: Any) -> TaskSetup:
    """The same data with other settings."""
    return replace(setup, settings=task_settings(typed), **changes)


@pytest.fixture
def typed(on_films: list[str]) -> list[str]:
    return [*on_films, TWO_LAYERS]


@pytest.fixture
def setup(typed: list[str]) -> TaskSetup:
    return made(typed)


def data_for(typed: list[str], *processors: Any) -> Any:
    return student_setup(task_settings(typed), {}, *processors).data


def test_a_model_that_is_nowhere_is_one_sentence_with_the_ways_out(typed: list[str], setup: TaskSetup) -> None:
    nowhere = with_settings(setup, [*typed, "teacher.pretrained=no-such-model-of-mine"])
    with pytest.raises(ConfigError, match=r"Cannot load 'no-such-model-of-mine'.*teacher\.path=DIR.*minilm_l6"):
        nowhere.fresh_teacher()


def test_a_teacher_with_another_tokenizer_keeps_it_beside_the_datas_own() -> None:
    own = data_for(["data=synthetic"]).processor
    same = data_for(["data=synthetic"], own)
    assert (same.processor.get_vocab(), same.teacher_processor) == (own.get_vocab(), None)
    other = data_for(["data=synthetic"], word_tokenizer(["good", "film"]))
    assert other.processor.get_vocab() == own.get_vocab()
    assert len(other.teacher_processor) == 6


def test_the_students_tokenizer_may_be_made_from_the_training_text(typed: list[str]) -> None:
    typed = [*typed, "data.tokenizer=train"]
    data = data_for(typed, word_tokenizer(["good", "film"]))
    assert data.processor.tokenize("a good film") == ["a", "good", "film"]
    assert len(data.teacher_processor) == 6
    # a teacher with random weights brings no tokenizer
    assert made(typed).data.processor.get_vocab() == data.processor.get_vocab()


def test_the_students_tokenizer_may_be_a_models(typed: list[str], setup: TaskSetup, tmp_path: Path) -> None:
    setup.data.processor.save_pretrained(tmp_path)
    data = data_for([*typed, f"data.tokenizer={tmp_path}"])
    assert data.processor.get_vocab() == setup.data.processor.get_vocab()
    with pytest.raises(ConfigError, match="Cannot load"):
        data_for([*typed, f"data.tokenizer={tmp_path / 'nothing'}"])


def test_the_data_gets_the_teachers_tokenizer(typed: list[str]) -> None:
    tokenizer = word_tokenizer(["good", "film"])
    assert data_for(typed, tokenizer).processor is tokenizer


class Labels(DataModule):
    def __init__(self, num_labels: int, classes: list[str] | None = None) -> None:
        super().__init__()
        self.num_labels, self.classes = num_labels, classes


def test_a_teacher_for_other_labels_is_an_error(setup: TaskSetup) -> None:
    check_labels(setup.fresh_teacher(), setup.data, Path("here"))
    with pytest.raises(ConfigError, match="has 2 labels, but the data has 5"):
        check_labels(setup.fresh_teacher(), Labels(5), Path("here"))


def test_a_teacher_with_the_labels_in_another_order_is_an_error(setup: TaskSetup) -> None:
    teacher: Any = setup.fresh_teacher()
    check_labels(teacher, Labels(2, ["no", "yes"]), Path("here"))  # it does not name its labels
    teacher.config.id2label = {0: "yes", 1: "no"}
    check_labels(teacher, Labels(2, ["yes", "no"]), Path("here"))
    check_labels(teacher, Labels(2), Path("here"))
    with pytest.raises(ConfigError, match="here numbers its labels yes, no, but the data no, yes"):
        check_labels(teacher, Labels(2, ["no", "yes"]), Path("here"))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["data=stsb", "task=classification"], "This data has numbers to predict. Type task=regression."),
        (["data=rte", "task=regression"], "This data has classes. Type task=classification."),
        (["data=rte", "task=tagging"], "made for sequence-classification, and the task is token-class.*task=classific"),
        (["data=squad", "task=classification"], "made for question-answering, .*Type task=question_answering"),
        (["data=synthetic", "task=masked_lm"], "made for sequence-classification, and the task is masked-lm"),
        (["data=mlm", "task=tagging", "data.path=DIR"], "Type task=masked_lm"),
        (["data=conll2003", "task=question_answering"], "Type task=tagging"),
    ],
)
def test_a_task_that_is_not_the_datas_is_an_error(chosen: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        student_setup(task_settings(chosen), {}, word_tokenizer(["good"]))


@pytest.mark.parametrize("chosen", [["data=rte", "task=matthews"], ["data=squad"], ["data=stsb"]])
def test_tasks_that_share_a_head_share_data(chosen: list[str]) -> None:
    student_setup(task_settings(chosen), {}, word_tokenizer(["good"]))


def test_a_random_teacher_gets_a_vocabulary_of_the_training_text(typed: list[str], setup: TaskSetup) -> None:
    tokenizer = setup.data.processor
    assert tokenizer.tokenize("a good FILM") == ["a", "good", "film"]
    assert tokenizer("film").input_ids[0] == tokenizer.cls_token_id
    assert made(typed).data.processor.get_vocab() == tokenizer.get_vocab()
    config = setup.fresh_teacher().config
    assert (config.vocab_size, config.num_labels, config.pad_token_id) == (len(tokenizer), 2, tokenizer.pad_token_id)


def test_students_take_vocabulary_and_labels_from_the_data(setup: TaskSetup) -> None:
    config: Any = setup.student(setup.fresh_teacher()).config
    assert (config.vocab_size, config.num_labels) == (len(setup.data.processor), 2)


def test_a_student_may_start_from_a_saved_one_and_brings_its_tokenizer(
    typed: list[str], setup: TaskSetup, tmp_path: Path
) -> None:
    general: Any = made([*typed, "student.hidden_size=24"]).student()
    general.save_pretrained(tmp_path / "student")
    setup.data.processor.save_pretrained(tmp_path / "student")
    typed = [*typed, f"student.path={tmp_path / 'student'}"]
    own = student_setup(task_settings(typed), {})
    assert own.data.processor.get_vocab() == setup.data.processor.get_vocab()
    student: Any = own.student(setup.fresh_teacher())
    before, after = general.base_model.state_dict(), student.base_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (student.config.num_labels, student.config.hidden_size) == (2, 24)
    other = data_for(typed, word_tokenizer(["good", "film"]))
    assert len(other.teacher_processor) == 6  # a teacher with another vocabulary: two tokenizers
    own.data.processor = word_tokenizer(["good", "film"])
    with pytest.raises(ConfigError, match=r"has a tokenizer of its own, and the data another"):
        own.student()
    with pytest.raises(ConfigError, match=r"student\.path=.*holds no saved model.*Closest: .*student"):
        data_for([*typed[:-1], f"student.path={tmp_path / 'studnet'}"])


def test_a_teacher_with_a_new_head_that_is_never_trained_is_an_error(setup: TaskSetup, tmp_path: Path) -> None:
    guessing = instantiate(task_settings(["data=mlm", "data.path=DIR"]).task)
    narrow = ["data=mlm", "data.path=DIR", "student.hidden_size=24"]
    model: Any = with_settings(setup, narrow, task=guessing).student()
    model.save_pretrained(tmp_path)
    chosen = ["data=mlm", "data.path=DIR", "teacher=bert_base", f"teacher.pretrained={tmp_path}"]
    never = with_settings(setup, [*chosen, "teacher.trainer.max_epochs=0"], task=guessing)
    again = never.fresh_teacher()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model.base_model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no head for masked-lm.*type teacher\.trainer\.max_epochs=1"):
        never.fresh_teacher()
    with_settings(setup, [*chosen, "teacher.trainer.max_epochs=1"], task=guessing).fresh_teacher()


def test_a_given_teacher_without_the_tasks_head_is_an_error(setup: TaskSetup, tmp_path: Path) -> None:
    setup.fresh_teacher().save_pretrained(tmp_path)
    setup.data.processor.save_pretrained(tmp_path)
    model: Any = load_teacher(tmp_path, setup.task)[0]
    assert model.config.num_labels == 2
    guessing = instantiate(task_settings(["data=mlm", "data.path=DIR"]).task)
    with pytest.raises(ConfigError, match=r"not fine-tuned for masked-lm: it has no cls.*teacher\.pretrained"):
        load_teacher(tmp_path, guessing)


def test_a_student_may_be_any_module(setup: TaskSetup) -> None:
    own = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    setup.settings = replace(setup.settings, student=own)
    student = setup.student()
    assert isinstance(student, nn.Linear)
    assert setup.student_recipe(student) == own


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


def test_folders_of_callbacks_and_loggers_are_below_the_stage(typed: list[str], tmp_path: Path) -> None:
    trainer = build_trainer(task_settings(typed).fitting, tmp_path)
    assert {callback.dirpath for callback in trainer.checkpoint_callbacks} == {str(tmp_path / "checkpoints")}
    assert {Path(logger.save_dir) for logger in trainer.loggers} == {tmp_path}
    trainer = build_trainer(task_settings([*typed, f"logger.csv.save_dir={tmp_path / 'other'}"]).fitting, tmp_path)
    assert Path(trainer.loggers[0].save_dir) == tmp_path / "other"


@pytest.mark.parametrize("wrong", ["callbacks", "logger", "trainer"])
def test_what_is_built_of_another_kind_is_named(typed: list[str], tmp_path: Path, wrong: str) -> None:
    fitting = task_settings(typed).fitting
    made = {"_target_": "builtins.dict"}
    changed = made if wrong == "trainer" else {**getattr(fitting, wrong), "mine": made}
    with pytest.raises(ConfigError, match=rf"'{wrong}[.mine]*' builds a dict, and must build a"):
        build_trainer(replace(fitting, **{wrong: changed}), tmp_path)


def test_null_turns_callbacks_and_loggers_off(typed: list[str], tmp_path: Path) -> None:
    off = [f"{key}=null" for key in ("logger.csv", "logger.tensorboard", "callbacks.best", "callbacks.last")]
    trainer = build_trainer(task_settings([*typed, *off]).fitting, tmp_path)
    assert not trainer.loggers
    assert not [callback for callback in trainer.checkpoint_callbacks if callback.dirpath]


def test_stages_before_several_processes_have_one() -> None:
    one = quiet_trainer(run_settings(["trainer=ddp_cpu"]).fitting, one_device=True).args[0]  # type: ignore[attr-defined]
    assert [one[key] for key in ("devices", "strategy", "num_nodes", "accelerator")] == [1, "auto", 1, "cpu"]


def test_learning_from_labels_alone_uses_the_experiments_loss(typed: list[str], setup: TaskSetup) -> None:
    own = [
        "objective.terms.hard.loss._target_=torch.nn.CrossEntropyLoss",
        "+objective.terms.hard.loss.label_smoothing=0.1",
    ]
    assert made([*typed, *own]).hard_objective().declared["hard"].loss.label_smoothing == 0.1
    assert list(made([*typed, "~objective.terms.hard"]).hard_objective().declared) == ["hard"]


@pytest.mark.parametrize("value", ["many", 1.5, True, -1])
def test_counts_are_whole_numbers(value: object) -> None:
    check_whole("data.limit", None)
    check_whole("data.limit", 3)
    with pytest.raises(ConfigError, match=r"'data\.limit' cannot be .*whole number"):
        check_whole("data.limit", value)


def test_a_pretrained_student_gets_the_tokens_of_its_own_tokenizer(
    typed: list[str], setup: TaskSetup, tmp_path: Path
) -> None:
    setup.fresh_teacher().save_pretrained(tmp_path)  # type: ignore[operator]
    setup.data.processor.save_pretrained(tmp_path)
    settings = task_settings([*typed, "student=pretrained", f"student.name={tmp_path}"])
    own = student_setup(settings, {}, word_tokenizer(["good", "film"]))
    assert own.data.processor.get_vocab() == setup.data.processor.get_vocab()
    assert len(own.data.teacher_processor) == 6
    own.data.processor = word_tokenizer(["good", "film"])
    with pytest.raises(ConfigError, match="has a tokenizer of its own, and the data another"):
        own.student()


def test_data_that_is_no_data_module_is_an_error(setup: TaskSetup) -> None:
    settings = replace(setup.settings, data={"_target_": "types.SimpleNamespace", "num_labels": 2})
    with pytest.raises(ConfigError, match=r"builds a SimpleNamespace, which is no kd_lightning\.data\.DataModule"):
        student_setup(settings, {})


def two_layers(like: Any, num_labels: int, vocab_size: int, pad_token_id: int) -> nn.Module:
    """A builder of a user's own, for classification and nothing else."""
    sizes = {"num_labels": num_labels, "vocab_size": vocab_size, "pad_token_id": pad_token_id}
    return shrink(like, **sizes, num_hidden_layers=2)


def test_a_builder_of_ones_own_is_given_sizes_and_labels_only(
    setup: TaskSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_lightning.pipeline.setup.instantiate", lambda node, **_: partial(two_layers))
    config: Any = setup.student(setup.fresh_teacher()).config
    assert (config.num_hidden_layers, config.num_labels) == (2, 2)


def test_a_teacher_of_larger_images_is_fine_tuned_on_those(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    from kd_lightning.pipeline.setup import teacher_setup

    cells = []
    for shade in range(4):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (60 * shade, 0, 0)).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    parquet.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), tmp_path / "tiny.parquet")
    typed = ["data=image_folder", f"data.path={tmp_path / 'tiny.parquet'}", "data.size=8", "data.teacher_size=16"]
    typed += ["teacher=resnet20_cifar", "student=resnet8", "data.holdout=0.5"]
    data = teacher_setup(task_settings(typed)).data
    assert next(iter(data.train_dataloader()))["pixel_values"].shape[2:] == (16, 16)


def test_a_stage_comes_after_those_whose_results_it_reads() -> None:
    settings = run_settings(["baseline=false", "cache=true"])
    assert [stage.name for stage in stages_of(settings)] == ["teacher", "cache", "student"]
    late = replace(settings, plan={name: settings.plan[name] for name in ("teacher", "student", "cache")})
    with pytest.raises(ConfigError, match="Stage 'student' reads the result of 'cache', which must come before it"):
        stages_of(late)
