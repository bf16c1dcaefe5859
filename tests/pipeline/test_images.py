"""Teachers, students and processors of a task of images, as the stages of a run build them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, ViTModel

import kd_lightning as kd
from kd_lightning import students
from kd_lightning.cli.checks import check_targets
from kd_lightning.cli.configs import compose_config
from kd_lightning.core.errors import ConfigError
from kd_lightning.models.hub import load_image_processor
from kd_lightning.pipeline.checks import build_for_data, check_inputs
from kd_lightning.pipeline.setup import TaskSetup
from kd_lightning.pipeline.teacher_model import load_teacher, random_teacher
from kd_lightning.tasks import ImageClassificationTask

from .making import task_settings

TINY = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
TASK = ImageClassificationTask("accuracy")
ARCHITECTURE = [f"teacher.architecture.{key}={value}" for key, value in TINY.items() if key != "image_size"]


class Squares(kd.data.RowDataModule):
    """Images of one colour each."""

    head = "image-classification"
    num_labels = 3
    classes = ["red", "green", "blue"]  # noqa: RUF012
    image_size = (8, 8)

    def make_rows(self, split: str) -> Any:
        return [{"pixel_values": torch.full((3, 8, 8), float(i % 3)), "labels": i % 3} for i in range(6)]

    def load_processor(self, name: str) -> Any:
        return load_image_processor(name)


def squares(**members: Any) -> Squares:
    data = Squares(batch_size=3)
    for name, value in members.items():
        setattr(data, name, value)
    return data


def setup(*typed: str) -> TaskSetup:
    """The setup of a task of images, as its teacher's training has it."""
    return TaskSetup(task_settings(["task=image_classification", *typed]), TASK, squares())


def vit(labels: int = 3, cls: Any = ViTForImageClassification, **fields: Any) -> Any:
    torch.manual_seed(0)
    return cls(ViTConfig(**(TINY | {"intermediate_size": 16, "num_labels": labels} | fields)))


def test_a_random_teacher_takes_images_of_the_datas_size_and_its_classes() -> None:
    chosen = {"model_type": "vit", **{key: value for key, value in TINY.items() if key != "image_size"}}
    config: Any = random_teacher(chosen, TASK, squares()).config
    assert (config.image_size, config.num_labels, config.id2label[2]) == (8, 3, "blue")
    config = random_teacher(chosen, TASK, squares(teacher_image_size=(16, 8))).config
    assert list(config.image_size) == [16, 8]
    config = random_teacher(chosen | {"image_size": 12}, TASK, squares()).config
    assert config.image_size == 12


@pytest.mark.parametrize(
    "chosen",
    [
        {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1]},
        {"model_type": "deit", **TINY},  # has two heads for classes
    ],
    ids=["resnet", "deit"],
)
def test_a_random_teacher_of_another_family_has_a_head_for_its_classes(chosen: dict[str, Any]) -> None:
    teacher: Any = random_teacher(chosen, TASK, squares())
    assert teacher(torch.zeros(2, 3, 8, 8)).logits.shape == (2, 3)
    assert hasattr(teacher.config, "image_size") == (chosen["model_type"] == "deit")


def test_a_pretrained_teacher_of_other_classes_gets_a_new_head(tmp_path: Path) -> None:
    model = vit(labels=5)
    model.save_pretrained(tmp_path)
    chosen = ["teacher=vit_base", f"teacher.pretrained={tmp_path}"]
    teacher: Any = setup(*chosen).fresh_teacher()
    assert teacher.classifier.out_features == 3
    for name, value in model.vit.state_dict().items():
        assert torch.equal(teacher.vit.state_dict()[name], value)
    with pytest.raises(ConfigError, match=r"no head for image-classification.*type teacher\.trainer\.max_epochs=1"):
        setup(*chosen, "teacher.trainer.max_epochs=0").fresh_teacher()


def test_a_pretrained_teacher_whose_body_does_not_fit_is_an_error(tmp_path: Path) -> None:
    model = vit()
    model.config.intermediate_size = 24
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'vit\.layers\.0\.mlp\.fc1\.bias' is \[16\], but \[24\] in the model"):
        setup("teacher=vit_base", f"teacher.pretrained={tmp_path}").fresh_teacher()


def test_a_teacher_by_target_is_told_classes_and_the_size_of_its_images() -> None:
    made = setup("teacher=resnet56_cifar", "teacher.model.depth=8", "teacher.model.width=0.25")
    recipe: Any = made.teacher_recipe()
    assert (recipe["num_labels"], recipe["image_size"], recipe["task"]) == (3, 8, "image-classification")
    assert made.fresh_teacher()(torch.zeros(1, 3, 8, 8)).shape == (1, 3)


def test_the_published_schedule_of_a_teacher_is_not_mixed_with_the_runs() -> None:
    teacher: Any = task_settings(["teacher=resnet56_cifar", "optimizer=adamw", "scheduler=linear_warmup"]).teacher
    assert set(teacher.fitting.optimizer) == {"_target_", "_partial_", "lr", "momentum", "nesterov", "weight_decay"}
    assert set(teacher.fitting.scheduler) == {"_target_", "_partial_", "milestones", "factor"}
    other: Any = task_settings(["teacher=tiny_random_vit", "optimizer=sgd", "scheduler=multistep"]).teacher
    assert "momentum" not in other.fitting.optimizer
    assert other.fitting.scheduler["milestones"] == [0.5, 0.75]  # the run's own, which it names


NETWORKS = ("resnet8", "resnet8x4", "wrn16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


@pytest.mark.parametrize("student", [*NETWORKS, "deit_tiny", "half_depth", "half_width"])
def test_students_are_built_by_their_name_for_the_datas_images(student: str) -> None:
    small = {"deit_tiny": ["student.num_hidden_layers=1"]}.get(student, [])
    made = setup("teacher=tiny_random_vit", *ARCHITECTURE, f"student={student}", *small)
    made.models = {"vit": made.fresh_teacher()}
    model = made.student()
    output = model(pixel_values=torch.zeros(2, 3, 8, 8))
    assert getattr(output, "logits", output).shape == (2, 3)
    kd.check_exportable(model, made.student_recipe(model), required=True)


@pytest.mark.parametrize("name", ["cifar_resnet", "resnet8x4", "vgg", "shufflenet_v1"])
def test_a_network_for_images_where_rows_are_tokens_is_an_error(name: str) -> None:
    builder = partial(getattr(students, name), **({"depth": 8} if name in ("cifar_resnet", "vgg") else {}))
    with pytest.raises(ConfigError, match=r"takes no 'vocab_size', which this data has .*choose a student for such"):
        build_for_data(builder, num_labels=2, vocab_size=30, pad_token_id=0)
    with pytest.raises(ConfigError, match="hiden"):
        build_for_data(partial(builder, hiden=1), num_labels=2)


def test_a_saved_teacher_brings_its_processor_whatever_kind_of_model_it_is(tmp_path: Path) -> None:
    processor = ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3])
    recipe = {"_target_": "kd_lightning.models.cifar_resnet", "depth": 8, "width": 0.25}
    kd.export(vit(), tmp_path / "vit", processor=processor)
    kd.export(students.cifar_resnet(8, 0.25), tmp_path / "cnn", processor=processor, recipe=recipe)
    kd.export(vit(), tmp_path / "alone")
    assert load_teacher(tmp_path / "vit", TASK)[1].to_dict() == processor.to_dict()
    assert load_teacher(tmp_path / "cnn", TASK)[1].to_dict() == processor.to_dict()
    assert load_teacher(tmp_path / "alone", TASK)[1] is None
    vit(cls=ViTModel).save_pretrained(tmp_path / "body")
    with pytest.raises(ConfigError, match="was not fine-tuned for image-classification: it has no classifier"):
        load_teacher(tmp_path / "body", TASK)


def test_images_of_another_size_than_a_vit_takes_are_an_error_before_training() -> None:
    check_inputs(vit(), squares(), "student")
    with pytest.raises(ConfigError, match=r"student takes images of 16×16, but .* 8×8. Type data\.size=16"):
        check_inputs(vit(image_size=16), squares(), "student")
    with pytest.raises(ConfigError, match=r"teacher takes images of 8×8, but .* 16×8. Type data\.teacher_size=8"):
        check_inputs(vit(), squares(teacher_image_size=(16, 8)), "teacher")
    check_inputs(students.cifar_resnet(8), squares(), "student")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 1}, "teacher takes images of 1 channels, but the data's have 3"),
        ({"patch_size": 9}, "teacher has patches of 9×9, but the data's images have 8×8"),
    ],
)
def test_images_that_a_vit_cannot_cut_are_an_error_before_training(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_inputs(vit(**changes), squares(), "teacher")


def test_a_pretrained_student_with_a_processor_of_its_own_is_an_error(tmp_path: Path) -> None:
    kd.export(vit(), tmp_path / "vit", processor=ViTImageProcessorPil())
    made = setup("student=pretrained", f"student.name={tmp_path / 'vit'}")
    made.data.interchangeable = lambda one, other: False  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"has a processor of its own, .* Type data\.processor="):
        made.student()


def test_a_run_of_images_distils_evaluates_and_exports(tmp_path: Path) -> None:
    """The parts together: a ViT teaches a ResNet-8, whose exported folder gives its logits."""
    made = setup("teacher=tiny_random_vit", *ARCHITECTURE, "student=resnet8", "student.width=0.25")
    teacher = made.fresh_teacher()
    made.check(teacher)
    made.models = {"vit": teacher}
    student = made.student()
    module = made.module(student, made.source())
    batch = next(iter(made.data.val_dataloader()))
    module.compare(batch).total.backward()
    folder = kd.export(module, tmp_path / "student", recipe=made.student_recipe(student))
    x = batch["pixel_values"]
    assert torch.equal(kd.load(folder)(x), student.eval()(x))


def test_a_cache_of_windows_at_random_needs_views_before_a_teacher_is_trained(tmp_path: Path) -> None:
    for label in ("cat", "ox"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8 + number, 8)).save(tmp_path / "photos" / label / f"{number}.png")
    made = setup("teacher=resnet20_cifar", "student=resnet8", "cache=true")
    made.data = kd.data.ImageClassification("photos", path=tmp_path / "photos", size=8, cache_dir=tmp_path / "kept")
    with pytest.raises(ConfigError, match=r"changes rows in every epoch: type teacher\.cache\.views=8"):
        made.check(kd.models.cifar_resnet(8, num_labels=2))


@pytest.mark.parametrize("teacher", ["none", "tiny_random_vit", "vit_base", "resnet110_cifar"])
@pytest.mark.parametrize("experiment", ["cifar10_small", "cifar10_hinton", "cifar10_vit"])
def test_an_experiment_takes_another_teacher(experiment: str, teacher: str) -> None:
    cfg = compose_config([f"experiment={experiment}", f"teacher={teacher}"])
    check_targets(cfg)
    assert cfg.teacher.name == teacher
