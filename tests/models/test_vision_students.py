"""Students of image models of Transformers: sizes, and what they start from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import transformers
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning import students
from kd_lightning.core.errors import ConfigError
from kd_lightning.features import model_info

PLAIN = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES = {
    "vit": ("ViT", PLAIN | {"num_hidden_layers": 4}),
    "deit": ("DeiT", PLAIN | {"num_hidden_layers": 4}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 4]}),
    "convnext": (
        "ConvNext",
        {"hidden_sizes": [8, 16], "depths": [2, 4], "num_stages": 2, "patch_size": 2, "image_size": 16},
    ),
    "swin": (
        "Swin",
        {"embed_dim": 8, "depths": [2, 4], "num_heads": [2, 4], "window_size": 2, "patch_size": 2, "image_size": 16},
    ),
    "mobilenet_v2": (
        "MobileNetV2",
        {"depth_multiplier": 0.25, "depth_divisible_by": 1, "min_depth": 1, "finegrained_output": False},
    ),
}
STAGED = ("resnet", "convnext", "swin")


def make(family: str, **fields: Any) -> Any:
    """Return a small random teacher in eval mode, with batch statistics and biases of its own."""
    name, sizes = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(sizes | {"num_labels": 5} | fields))
    model = getattr(transformers, f"{name}ForImageClassification")(config)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                tensor.uniform_(-0.2, 0.2)
    return model.eval()


def logits(model: nn.Module, size: int = 16) -> Tensor:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(pixel_values=x).logits


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


HALF: dict[str, dict[str, Any]] = {
    "vit": {"num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24},
    "deit": {"num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24},
    "resnet": {"depths": [1, 2], "hidden_sizes": [8, 16], "embedding_size": 4},
    "convnext": {"depths": [1, 2], "hidden_sizes": [4, 8]},
    "swin": {"depths": [1, 2], "embed_dim": 4, "num_heads": [1, 2], "hidden_size": 8},
}


@pytest.mark.parametrize("family", HALF)
def test_half_of_a_teacher_has_half_its_layers_and_channels(family: str) -> None:
    teacher = make(family)
    student: Any = students.vision_student(teacher, depth=0.5, width=0.5, num_labels=3)
    assert type(student) is type(teacher)
    assert {name: getattr(student.config, name) for name in HALF[family]} == HALF[family]
    assert logits(student.eval()).shape == (2, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_teacher_gives_the_teacher(family: str) -> None:
    teacher = make(family)
    student = students.vision_student(teacher, layers="uniform").eval()
    assert torch.equal(logits(student), logits(teacher))
    mine = {parameter.data_ptr() for parameter in student.parameters()}
    assert mine.isdisjoint(parameter.data_ptr() for parameter in teacher.parameters())


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_layers_are_evenly_spread(family: str) -> None:
    teacher = make(family)
    student: Any = students.vision_student(teacher, depth=0.5, layers="uniform")
    for mine, theirs in zip(student.base_model.layers, [teacher.base_model.layers[k] for k in (1, 3)], strict=True):
        assert equal(mine, theirs)
    assert equal(student.classifier, teacher.classifier)


BLOCKS: dict[str, Callable[[Any, int], Any]] = {
    "resnet": lambda model, stage: model.resnet.encoder.stages[stage].layers,
    "convnext": lambda model, stage: model.convnext.encoder.stages[stage].layers,
    "swin": lambda model, stage: model.swin.encoder.layers[stage].blocks,
}


@pytest.mark.parametrize("family", STAGED)
def test_blocks_of_each_stage_are_its_first_its_last_and_those_between(family: str) -> None:
    teacher = make(family)
    student = students.vision_student(teacher, depth=0.5, layers="uniform", num_labels=7)
    for stage, chosen in enumerate([(0,), (0, 3)]):
        blocks = BLOCKS[family](student, stage)
        assert len(blocks) == len(chosen)
        for mine, k in zip(blocks, chosen, strict=True):
            assert equal(mine, BLOCKS[family](teacher, stage)[k])


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2"])
def test_a_teacher_that_uses_every_other_channel_only_is_its_student(family: str) -> None:
    """Channels 1, 3, 5, … are zero everywhere: the others compute the same, if the same are kept in every layer."""
    teacher = make(family, **({"depth_multiplier": 0.5} if family == "mobilenet_v2" else {}))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[1::2] = 0
                module.bias[1::2] = 0
    student = students.vision_student(teacher, width=0.5, layers="uniform").eval()
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters()) / 2
    torch.testing.assert_close(logits(student), logits(teacher))


def test_a_convnext_with_every_channel_twice_is_cut_to_the_one_it_was_made_of() -> None:
    narrow, wide = make("convnext", hidden_sizes=[4, 8]), make("convnext")
    for (name, small), large in zip(narrow.state_dict().items(), wide.state_dict().values(), strict=True):
        for axis in range(small.dim()):
            times = large.shape[axis] // small.shape[axis]
            small = small.repeat_interleave(times, axis)
        assert small.shape == large.shape, name
        large.copy_(small)
    student = students.vision_student(wide, width=0.5, layers="uniform")
    assert equal(student, narrow)


def test_other_labels_and_another_size_of_images_keep_their_own_values() -> None:
    teacher = make("vit")
    student: Any = students.vision_student(teacher, 0.5, layers="uniform", num_labels=3, image_size=8)
    own = students.copy_layers(teacher, student, "uniform")
    assert own == ["embeddings.position_embeddings", "classifier.weight", "classifier.bias"]
    assert logits(student.eval(), 8).shape == (2, 3)
    resnet: Any = students.vision_student(make("resnet"), num_labels=3, image_size=8)  # it takes any size
    assert not hasattr(resnet.config, "image_size")


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("swin", {"width": 0.5, "layers": "uniform"}, "A narrower Swin cannot start from its teacher.*null"),
        ("mobilenet_v2", {"depth": 0.5}, "A MobileNetV2 has one depth"),
        ("resnet", {"layers": [1, 2]}, "`layers` is uniform or null"),
        ("vit", {"depth": 0}, "`depth` to be a share"),
        ("convnext", {"width": 2}, "`width` to be a share"),
        ("resnet", {"hiden_sizes": [4, 8]}, "no field 'hiden_sizes'. Closest: hidden_sizes"),
        ("resnet", {"hidden_sizes": [16, 64], "layers": "uniform"}, r"the student's .* no wider"),
        ("resnet", {"depths": [2, 5], "layers": "uniform"}, r"of \[2, 5\] blocks cannot start from .* \[2, 4\]"),
    ],
)
def test_what_a_family_cannot_have_is_an_error(family: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        students.vision_student(make(family), **arguments)


def test_other_families_and_configurations_without_weights_are_errors() -> None:
    with pytest.raises(ConfigError, match="A bert teacher has no student by depth and width"):
        students.vision_student(transformers.BertConfig())
    with pytest.raises(ConfigError, match="starts from a teacher's weights, but `like` is a configuration"):
        students.vision_student(make("resnet").config, layers="uniform")


SIZES: dict[str, dict[str, Any]] = {  # what builders need beside what the command gives them
    "cifar_resnet": {"depth": 8},
    "cifar_resnet50": {"width": 0.125},
    "deit_tiny": {},
    "mobilenet_v2": {},
    "resnet8x4": {},
    "resnet32x4": {},
    "shufflenet_v1": {},
    "shufflenet_v2": {},
    "vgg": {"depth": 8, "width": 0.25},
    "vision_student": {},
    "wide_resnet": {"depth": 10},
}


@pytest.mark.parametrize("name", SIZES)
def test_builders_are_annotated_and_take_what_the_command_gives_them_by_name(name: str) -> None:
    builder = getattr(students, name)
    parameters = inspect.signature(builder).parameters
    hints = get_type_hints(builder)
    assert hints.pop("return") is nn.Module
    assert hints.keys() == parameters.keys()
    labels = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    given = {"like": make("vit"), "task": "image-classification", "image_size": 16, **labels}
    assert isinstance(builder(**SIZES[name], **given), nn.Module)


# -- DeiT with a distillation token --------------------------------------------------------------------------------


def test_deit_tiny_has_the_published_size() -> None:
    """Touvron et al. 2021, table 5: DeiT-Ti⚗ has 6 M parameters at 224×224 with patches of 16."""
    with torch.device("meta"):
        model = students.deit_tiny(num_labels=1000, image_size=224, patch_size=16)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 6


def tiny_deit(**fields: Any) -> Any:
    sizes = {"num_hidden_layers": 1, "hidden_size": 12, "intermediate_size": 24, "image_size": 8}
    torch.manual_seed(0)
    return students.deit_tiny(**(sizes | {"num_labels": 3} | fields)).eval()


def test_the_two_heads_of_a_deit_are_addresses_of_class_logits() -> None:
    model, addresses = tiny_deit(), ["logits", "cls_logits", "distillation_logits"]
    info = model_info(model)
    assert [info.feature(address).kind for address in addresses] == ["classes"] * 3
    with kd.FeatureTap(model, addresses) as tap:
        logits(model, 8)
        found = tap.take()
    mean = (found["cls_logits"] + found["distillation_logits"]) / 2
    torch.testing.assert_close(found["logits"], mean)
    assert not torch.equal(found["cls_logits"], found["distillation_logits"])


def test_a_deit_learns_labels_with_one_head_and_its_teacher_with_the_other() -> None:
    objective = kd.Objective(
        {
            "hard": kd.Term(kd.Match("cls_logits", "labels"), kd.losses.HardLabel()),
            "logits": kd.Term(kd.Match("distillation_logits", "logits"), kd.losses.SoftTarget()),
        }
    )
    module = kd.DistillationModule(tiny_deit(), students.cifar_resnet(8, 0.25, num_labels=3), objective)
    batch = {"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.tensor([0, 2])}
    report = module.compare(batch)
    report.total.backward()
    assert set(report.parts) == {"hard", "logits"}
    assert module.student.distillation_classifier.weight.grad.abs().sum() > 0


# -- saved with a processor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: make("vit"), tiny_deit], ids=["vit", "deit"])
def test_an_exported_image_model_is_opened_by_transformers_with_its_processor(
    build: Callable[[], Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification, ViTImageProcessorPil

    from kd_lightning.models.hub import load_image_processor

    model = build()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])
    folder = kd.export(model, tmp_path / "student", processor=processor)
    size = model.config.image_size
    for opened in (AutoModelForImageClassification.from_pretrained(folder).eval(), kd.load(folder)):
        assert type(opened) is type(model)
        assert torch.equal(logits(opened, size), logits(model, size))
    again = load_image_processor(folder)
    assert type(again) is ViTImageProcessorPil
    assert again.to_dict() == processor.to_dict()
