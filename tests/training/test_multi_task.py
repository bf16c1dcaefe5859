"""Several tasks in one run."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassMatthewsCorrCoef
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, ConfigError, NonFiniteLossError
from kd_lightning.metrics import BatchMetric
from kd_lightning.training.callbacks.step_seed import StepSeed

from ..toys import Spy, bert, hooks_on, ready, same, trainer, weights, words

SGD = partial(torch.optim.SGD, lr=0.1)


def objective(weight: float = 1.0) -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0), weight),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
        }
    )


def students(seed: int = 0) -> tuple[Any, Any]:
    three = bert(2, seed=seed)
    return three, kd.students.share_body(three, bert(2, seed=seed, labels=2))


def accuracy(labels: int) -> dict[str, Any]:
    return {"accuracy": MulticlassAccuracy(labels, average="micro")}


def tasks(seed: int = 0) -> dict[str, kd.DistillationModule]:
    three, two = students(seed)
    return {
        "three": kd.DistillationModule(three, bert(4, 24, seed=1), objective(), metrics=accuracy(3)),
        "two": kd.DistillationModule(two, bert(3, 32, seed=2, labels=2), objective(2.0), metrics=accuracy(2)),
    }


def batch(task: str, seed: int) -> dict[str, Any]:
    return {**words(seed=seed, labels=3 if task == "three" else 2), "task": task}


ORDER = ["three", "two", "two", "three", "two"]
BATCHES = [batch(task, seed) for seed, task in enumerate(ORDER)]


def test_the_repr_names_each_tasks_teacher_and_terms():
    text = repr(kd.MultiTaskModule(tasks()))
    for name, weight in (("three", 1), ("two", 2)):
        own = text.split(f"({name}): ")[1]
        model = "LiveTeacher(BertForSequenceClassification)"
        assert own.split("\n")[1].strip() == f"teacher={model}, terms={{hard: 1, soft: {weight}, hidden: 1}}"


def test_one_step_on_each_task_equals_the_tasks_own_losses_summed_by_hand(tmp_path):
    """Oracle: plain PyTorch on two copies, each batch through its own module, one optimizer over all parameters."""
    module = kd.MultiTaskModule(tasks(), optimizer=SGD)
    by_hand = tasks()
    for name, task in by_hand.items():
        task.load_state_dict(module.tasks[name].state_dict())
    unique = {id(p): p for task in by_hand.values() for p in task.parameters()}
    optimizer = torch.optim.SGD(unique.values(), lr=0.1)
    for data in BATCHES:
        optimizer.zero_grad()
        by_hand[data["task"]].compare({k: v for k, v in data.items() if k != "task"}).total.backward()
        optimizer.step()
    trainer(tmp_path, max_epochs=1).fit(module, ready(BATCHES))
    for name, task in by_hand.items():
        for key, value in task.state_dict().items():
            torch.testing.assert_close(module.tasks[name].state_dict()[key], value, atol=1e-6, rtol=1e-5, msg=key)


def test_the_body_learns_from_both_and_a_head_from_its_own_task_only(tmp_path):
    module = kd.MultiTaskModule(tasks(), optimizer=SGD)
    before = weights(module)
    trainer(tmp_path, max_epochs=1).fit(module, ready([batch("two", 0)]))
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert "tasks.two.student.classifier.weight" in changed
    assert "tasks.three.student.bert.encoder.layer.0.output.dense.weight" in changed
    assert not [
        name for name in changed if name.startswith(("tasks.three.student.classifier", "tasks.three.objective"))
    ]


def test_each_task_has_its_own_logs_and_metrics(tmp_path):
    seen: set[str] = set()
    spy = Spy(lambda trainer, module: seen.update(trainer.callback_metrics))
    runner = trainer(tmp_path, max_epochs=1, callbacks=[spy])
    module = kd.MultiTaskModule(tasks(), optimizer=SGD)
    runner.fit(module, ready(BATCHES), ready([batch("three", 9), batch("two", 8)]))
    assert {"train/loss", "train/three/loss/soft", "train/two/weighted/hidden_2"} <= seen
    scores = {name: float(value) for name, value in runner.callback_metrics.items() if name.startswith("val/")}
    assert scores.keys() == {"val/mean", "val/three/accuracy", "val/two/accuracy"}
    assert scores["val/mean"] == pytest.approx((scores["val/three/accuracy"] + scores["val/two/accuracy"]) / 2)
    by_hand = []
    for name, seed in (("three", 9), ("two", 8)):
        guesses = module.tasks[name].eval().forward(batch(name, seed))["logits"].argmax(-1)
        by_hand.append(float((guesses == batch(name, seed)["labels"]).float().mean()))
    assert [scores["val/three/accuracy"], scores["val/two/accuracy"]] == pytest.approx(by_hand)


def test_a_row_has_the_losses_of_its_own_task_alone_and_callbacks_find_all(tmp_path):
    found: list[set[str]] = []
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    runner = trainer(
        tmp_path, max_epochs=2, callbacks=[Spy(lambda r, _: found.append(set(r.callback_metrics)))], logger=logger
    )
    runner.fit(kd.MultiTaskModule(tasks(), optimizer=SGD), ready(BATCHES))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = [{key.split("/")[1] for key, value in row.items() if value and key.startswith("train/t")} for row in rows]
    assert own == [{each["task"]} for each in BATCHES] * 2
    assert {"train/two/loss/soft", "train/three/loss/soft"} <= found[-1]


def test_the_mean_is_over_each_tasks_first_metric_whatever_its_name(tmp_path):
    made = tasks()
    both = {"zeta": MulticlassMatthewsCorrCoef(2), **accuracy(2)}
    made["two"] = kd.DistillationModule(made["two"].student, bert(2, labels=2, seed=3), objective(), metrics=both)
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(kd.MultiTaskModule(made), ready(BATCHES), ready([batch("three", 9), batch("two", 8)]))
    found = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert found["val/mean"] == pytest.approx((found["val/three/accuracy"] + found["val/two/zeta"]) / 2)


class Percent(BatchMetric):
    """A score in percent."""

    score_names = ("percent",)
    best_value = 100.0

    def update(self, features, batch):
        pass

    def compute(self):
        return {"percent": torch.tensor(80.0)}


def test_a_score_in_percent_counts_as_a_share_in_the_mean(tmp_path):
    made = tasks()
    percent = {"percent": Percent()}
    made["two"] = kd.DistillationModule(made["two"].student, bert(2, labels=2, seed=3), objective(), metrics=percent)
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(kd.MultiTaskModule(made), ready(BATCHES), ready([batch("three", 9), batch("two", 8)]))
    found = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert found["val/two/percent"] == 80
    assert found["val/mean"] == pytest.approx((found["val/three/accuracy"] + 0.8) / 2)


def test_tags_and_classes_share_all_but_the_pooler():
    config = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    classes = BertForSequenceClassification(BertConfig(**config))
    tags = kd.students.share_body(classes, BertForTokenClassification(BertConfig(**config, num_labels=5)))
    assert tags.bert.encoder is classes.bert.encoder
    assert tags.bert.embeddings is classes.bert.embeddings
    assert classes.bert.pooler is not None
    assert tags.bert.pooler is None
    assert tags(torch.tensor([[1, 2]])).logits.shape == (1, 2, 5)
    other = kd.students.share_body(tags, BertForSequenceClassification(BertConfig(**config)))
    assert other.bert.pooler is not classes.bert.pooler


def test_a_task_that_was_not_validated_has_no_score(tmp_path):
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(kd.MultiTaskModule(tasks()), ready(BATCHES), ready([batch("two", 8)]))
    scores = {name for name in runner.callback_metrics if name.startswith("val/")}
    assert scores == {"val/mean", "val/two/accuracy"}


def test_several_teachers_per_task_and_features_of_each(tmp_path):
    three, two = students()
    pair = kd.EnsembleTeacher({"a": bert(4, 24, seed=1), "b": bert(2, seed=2)})
    own = kd.Objective(
        {
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), teacher_feature="a/hidden", projection="linear"),
        }
    )
    module = kd.MultiTaskModule(
        {
            "three": kd.DistillationModule(three, pair, own),
            "two": kd.DistillationModule(two, bert(2, labels=2, seed=3), objective()),
        }
    )
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(module, ready(BATCHES), ready([batch("three", 9), batch("two", 8)]))
    assert torch.isfinite(runner.callback_metrics["val/mean"])


def test_no_hook_is_left_on_any_model_and_teachers_are_unchanged(tmp_path):
    made = tasks()
    teachers = [next(task.teacher.models()) for task in made.values()]
    before = [weights(teacher) for teacher in teachers]
    trainer(tmp_path, max_epochs=1).fit(kd.MultiTaskModule(made), ready(BATCHES))
    assert [same(weights(teacher), old) for teacher, old in zip(teachers, before, strict=True)] == [True, True]
    assert sum(hooks_on(model) for model in [*teachers, *(task.student for task in made.values())]) == 0


def sentiment(size: int, seed: int) -> kd.data.SyntheticSentiment:
    return kd.data.SyntheticSentiment(size, 20, seed=seed, batch_size=8)


def fit_data(folder: Path, seed: int = 0, **options: Any) -> kd.MultiTaskModule:
    """Train for two epochs of 11 batches, saving every third step."""
    data = kd.data.MultiTask({"large": sentiment(64, 0), "small": sentiment(24, 1)}, tau=0.5)
    vocabulary = {"vocab_size": len(data.tasks["large"].tokenizer), "max_position_embeddings": 64}
    large, small = (bert(1, seed=seed, labels=2, dropout=0.1, **vocabulary) for _ in range(2))
    kd.students.share_body(large, small)
    made = {
        name: kd.DistillationModule(student, bert(1, 24, seed=3, labels=2, **vocabulary), objective())
        for name, student in (("large", large), ("small", small))
    }
    saver = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    runner = trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=[saver, StepSeed(0)])
    module = kd.MultiTaskModule(made, partial(torch.optim.AdamW, lr=1e-2))
    runner.fit(module, datamodule=data, **options)
    return module


@pytest.mark.parametrize("step", [3, 12, 15])
def test_a_resumed_run_ends_bit_equal_to_a_whole_one(whole, tmp_path, step):
    folder, module = whole
    again = fit_data(tmp_path, seed=5, ckpt_path=str(folder / f"step={step}.ckpt"), weights_only=True)
    assert same(weights(again), weights(module))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> tuple[Path, kd.MultiTaskModule]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit_data(folder)


def test_no_teacher_is_in_a_checkpoint(whole):
    checkpoint = torch.load(whole[0] / "step=3.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "teacher" in name]


def test_schedules_run_over_the_whole_run_of_all_tasks(tmp_path):
    made = tasks()
    seen: list[float] = []
    spy = Spy(lambda trainer, module: seen.append(module.tasks["two"].progress))
    scheduled = kd.Objective(
        {"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(), schedule=kd.schedules.LinearDecay())}
    )
    made["two"] = kd.DistillationModule(made["two"].student, bert(2, labels=2, seed=3), scheduled, metrics=accuracy(2))
    trainer(tmp_path, max_epochs=2, callbacks=[spy]).fit(kd.MultiTaskModule(made), ready(BATCHES))
    assert seen == pytest.approx([i / 10 for i in range(1, 11)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "thre"}, "There is no task 'thre'. Closest: three"),
        ({}, "Each batch must name its task"),
    ],
)
def test_a_batch_of_an_unknown_task_raises(tmp_path, data, message):
    with pytest.raises(AddressError, match=message):
        trainer(tmp_path, max_epochs=1).fit(kd.MultiTaskModule(tasks()), ready([{**words(), **data}]))


@pytest.mark.parametrize("name", ["a.b", "", "keys", "train", "training"])
def test_an_invalid_task_name_raises(name):
    with pytest.raises(ConfigError, match="A task cannot be named"):
        kd.MultiTaskModule({name: tasks()["two"]})


def test_no_tasks_and_no_modules_raise():
    with pytest.raises(ConfigError, match="Several tasks need modules by name"):
        kd.MultiTaskModule({})
    with pytest.raises(ConfigError, match="Expected task 'a' to be a DistillationModule but got Linear"):
        kd.MultiTaskModule({"a": nn.Linear(2, 2)})


def test_one_teacher_source_for_two_tasks_raises():
    teacher = kd.LiveTeacher(bert(2, seed=1))
    three, other = bert(2), bert(2)
    made = {n: kd.DistillationModule(s, teacher, objective()) for n, s in (("a", three), ("b", other))}
    with pytest.raises(ConfigError, match="Tasks 'a' and 'b' have one teacher source"):
        kd.MultiTaskModule(made)


def test_sharing_bodies_that_differ_raises():
    with pytest.raises(ConfigError, match=r"differ at 'encoder\.layer\.1"):
        kd.students.share_body(bert(1), bert(2))
    with pytest.raises(ConfigError, match="Only Transformers models with a head"):
        kd.students.share_body(nn.Linear(1, 1), nn.Linear(1, 1))


def test_a_shared_body_is_exported_with_each_head(tmp_path):
    from transformers import AutoModelForSequenceClassification

    module = kd.MultiTaskModule(tasks())
    for name, labels in (("three", 3), ("two", 2)):
        kd.export(module.tasks[name], tmp_path / name)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        assert loaded.config.num_labels == labels
        assert same(weights(loaded), weights(module.tasks[name].student))


def test_one_tasks_student_as_teacher_of_another_raises():
    three, two = bert(2), bert(2, seed=1)
    first = kd.DistillationModule(three, bert(2, seed=2), objective())
    second = kd.DistillationModule(two, three, objective())
    with pytest.raises(ConfigError, match="Student and teacher share the parameter"):
        kd.MultiTaskModule({"a": first, "b": second})


def test_metrics_for_only_some_tasks_raise():
    made = tasks()
    made["two"] = kd.DistillationModule(made["two"].student, bert(2, labels=2, seed=3), objective())
    with pytest.raises(ConfigError, match="Task 'two' has no metrics"):
        kd.MultiTaskModule(made)


def test_export_of_several_tasks_raises_and_names_their_modules(whole, tmp_path):
    with pytest.raises(ConfigError, match=r"export\(module\.tasks\['three'\], …\)"):
        kd.export(kd.MultiTaskModule(tasks()), tmp_path / "x")
    with pytest.raises(ConfigError, match="holds the students of several tasks"):
        kd.export(whole[0] / "step=3.ckpt", tmp_path / "x")


def test_weights_that_are_not_finite_in_the_end_are_named(tmp_path):
    module = kd.MultiTaskModule(tasks(), optimizer=SGD)

    def spoil(*_: Any) -> None:
        with torch.no_grad():
            module.tasks["three"].student.classifier.bias.fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"non-finite in the last step, in .classifier\.bias"):
        trainer(tmp_path, max_steps=1, callbacks=[Spy(spoil)]).fit(module, ready([batch("two", 1)]))
