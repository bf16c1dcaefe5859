"""Terms on feature maps: projections of channels, sizes, and tokens of a ViT against maps of a CNN."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import kd_lightning as kd
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.features import FeatureTap, model_info


class Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Net(nn.Module):
    """Two stages, the second half as high and wide; `pool` and `head` behind them."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.stem = Block(3, width, stride)
        self.stages = nn.ModuleDict({"1": Block(width, width, 1), "2": Block(width, 2 * width, 2)})
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values)
        for stage in self.stages.values():
            x = stage(x)
        return self.head(self.pool(x))


def vit(name: str = "ViT") -> nn.Module:
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(tf, f"{name}Config")(**sizes, intermediate_size=16, num_labels=5)
    return getattr(tf, f"{name}ForImageClassification")(config).eval()


IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def features(model: nn.Module, *addresses: str) -> dict[str, Tensor]:
    with FeatureTap(model, addresses) as tap:
        model(IMAGES)
        return tap.take()


def bound(term: kd.Term, student: nn.Module, teacher: nn.Module) -> kd.Term:
    kd.Objective({"t": term}).bind(model_info(student), model_info(teacher))
    return term


def value(term: kd.Term, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Bind a term to two models and evaluate it on their features."""
    bound(term, student, teacher)
    own = features(student, *term.match.student_addresses)
    return term(own, features(teacher, *term.teacher_addresses), {"pixel_values": IMAGES})[0]


STAGE = kd.Match("stages.2", "stages.2")


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("conv", [nn.Conv2d]),
        ("conv_bn", [nn.Conv2d, nn.BatchNorm2d]),
        ("conv_bn_relu", [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]),
    ],
)
def test_a_projection_of_channels_is_built_from_the_models(kind: Any, parts: list[type]) -> None:
    term = bound(kd.Term(STAGE, kd.losses.HiddenMSE(), projection=kind), Net(4), Net(8))
    modules = [module for module in term.projection.modules() if not isinstance(module, nn.Sequential)]
    assert [type(module) for module in modules] == parts
    assert modules[0].weight.shape == (16, 8, 1, 1)
    assert (modules[0].bias is None) == (kind != "conv")


def test_the_loss_of_a_projected_map_is_that_of_plain_torch() -> None:
    torch.manual_seed(0)
    student, teacher = Net(4), Net(8)
    term = kd.Term(STAGE, kd.losses.HiddenMSE(), projection="conv_bn_relu")
    found = value(term, student, teacher)
    own, target = features(student, "stages.2")["stages.2"], features(teacher, "stages.2")["stages.2"]
    mixed = torch.einsum("bchw,dc->bdhw", own, term.projection[0].weight[:, :, 0, 0])
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(found, F.mse_loss(((mixed - mean) / (variance + 1e-5).sqrt()).relu(), target.detach()))


REFUSED: list[tuple[str, str, str, str]] = [
    ("linear", "stages.2", "stages.2", r"^Term 't'.*projection='linear' maps the last axis.*kind 'map'.*'conv'"),
    ("tanh", "stem", "stem", r"projection='tanh'.*projection='conv'"),
    ("conv", "pool", "pool", r"projection='conv' maps the channels.*kind 'vector'.*projection='linear'"),
    ("conv_bn", "logits", "logits", r"projection='conv_bn' maps the channels.*kind 'classes': leave it out"),
]


def test_an_unknown_projection_is_named_at_once() -> None:
    with pytest.raises(MatchError, match=r"Unknown projection 'cnov'\. Closest: conv"):
        kd.Term(kd.Match("pool", "pool"), kd.losses.HiddenMSE(), projection="cnov")


@pytest.mark.parametrize(("projection", "own", "target", "sentence"), REFUSED)
def test_a_projection_of_another_kind_is_refused_when_bound(
    projection: Any, own: str, target: str, sentence: str
) -> None:
    term = kd.Term(kd.Match(own, target), kd.losses.HiddenMSE(), projection=projection)
    with pytest.raises(MatchError, match=sentence):
        bound(term, Net(4), Net(8))


def test_a_projection_of_channels_before_tokens_is_refused_too() -> None:
    with pytest.raises(MatchError, match=r"kind 'tokens'.*projection='linear'"):
        bound(kd.Term(kd.Match("hidden.1", "stages.2"), nn.MSELoss(), projection="conv"), vit(), Net(8))


def test_channels_that_differ_ask_for_a_convolution_when_bound() -> None:
    with pytest.raises(MatchError, match=r"width is 8 and the teacher's 16.*projection='conv'"):
        bound(kd.Term(STAGE, kd.losses.HiddenMSE()), Net(4), Net(8))


@pytest.mark.parametrize(("mode", "pool"), [("avg", F.adaptive_avg_pool2d), ("max", F.adaptive_max_pool2d)])
@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled_to_the_smaller(mode: Any, pool: Any, larger: str) -> None:
    torch.manual_seed(0)
    student, teacher = (Net(4, stride=1 if larger == side else 2) for side in ("student", "teacher"))
    sides = [features(net, "stages.2")["stages.2"] for net in (student, teacher)]
    pooled = [side if side.shape[2] == 4 else pool(side, 4) for side in sides]
    term = kd.Term(STAGE, kd.losses.HiddenMSE(), resize=mode)
    torch.testing.assert_close(value(term, student, teacher), F.mse_loss(*pooled))


def test_without_resize_maps_must_be_of_one_size() -> None:
    with pytest.raises(MatchError, match=r"\(4, 8, 8, 8\).*\(4, 8, 4, 4\).*unless resize=None"):
        value(kd.Term(STAGE, kd.losses.HiddenMSE(), resize=None), Net(4), Net(4, stride=2))
    with pytest.raises(ConfigError, match=r"`resize` to be one of 'avg', 'max', None but got 'mean'"):
        kd.Term(STAGE, nn.MSELoss(), resize="mean")


def test_attention_maps_and_heads_are_never_resized() -> None:
    shapes: list[Any] = []

    def look(student: Tensor, teacher: Tensor) -> Tensor:
        shapes.append((student.shape, teacher.shape))
        return student.sum()

    for address in ("attention.1", "query.1"):
        term = bound(kd.Term(kd.Match(address, address), look), vit(), vit())
        given = torch.zeros(2, 2, 17, 17), torch.zeros(2, 2, 5, 5)
        term({address: given[0]}, {address: given[1]}, {})
        assert shapes.pop() == (given[0].shape, given[1].shape)


def test_four_axes_of_which_nothing_is_known_are_maps_for_images_and_not_for_text() -> None:
    term, x = kd.Term(kd.Match("a", "b"), nn.MSELoss()), {"a": torch.ones(2, 3, 8, 8)}
    assert term(x, {"b": torch.ones(2, 3, 4, 4)}, {})[0] == 0
    with pytest.raises(MatchError, match="MSELoss needs equal shapes"):
        term(x, {"b": torch.ones(2, 3, 4, 4)}, {"attention_mask": torch.ones(2, 8)})


@pytest.mark.parametrize(("name", "prefix"), [("ViT", 1), ("DeiT", 2)])
def test_tokens_of_a_teacher_become_a_map_for_a_student_with_maps(name: str, prefix: int) -> None:
    torch.manual_seed(0)
    student, teacher = Net(4), vit(name)
    term = kd.Term(kd.Match("stages.2", "hidden.2"), kd.losses.HiddenMSE(), projection="conv")
    found = value(term, student, teacher)
    own = F.adaptive_avg_pool2d(term.projection(features(student, "stages.2")["stages.2"]), 4)
    target = features(teacher, "hidden.2")["hidden.2"][:, prefix:]
    expected = torch.stack([(own[:, :, k // 4, k % 4] - target[:, k]).square().mean() for k in range(16)]).mean()
    torch.testing.assert_close(found, expected)


def test_tokens_of_a_student_are_projected_as_tokens_and_then_become_a_map() -> None:
    torch.manual_seed(0)
    student, teacher = vit(), Net(4)
    term = kd.Term(kd.Match("hidden.1", "stages.2"), kd.losses.HiddenMSE(), projection="linear")
    found = value(term, student, teacher)
    own = term.projection(features(student, "hidden.1")["hidden.1"][:, 1:]).mT.reshape(4, 8, 4, 4)
    target = F.adaptive_avg_pool2d(features(teacher, "stages.2")["stages.2"], 4)
    torch.testing.assert_close(found, F.mse_loss(own, target))


def test_fsp_brings_the_layers_of_a_pair_to_one_size() -> None:
    torch.manual_seed(0)
    student, teacher = Net(4), Net(4)
    pair = ("stages.1", "stages.2")
    grams = []
    for net in (student, teacher):
        first, second = features(net, *pair).values()
        grams.append(torch.einsum("bchw,bdhw->bcd", F.adaptive_max_pool2d(first, 8), second) / 64)
    term = kd.Term(kd.Match(pair, pair), kd.losses.FSP(), resize="max")
    torch.testing.assert_close(value(term, student, teacher), F.mse_loss(*grams))


KINDS: list[tuple[Any, Any, str]] = [
    (kd.losses.PKD(), "stages.1", "kind 'map': use HiddenCosine"),
    (kd.losses.AttentionMSE(), "stages.1", "kind 'map': use HiddenMSE"),
    (kd.losses.SelfRelation(), "stages.1", "kind 'map': use HiddenMSE"),
    (kd.losses.HiddenMSE(), ["stages.1", "stages.2"], "HiddenMSE compares one feature with one.*MatchScheme"),
    (kd.losses.AttentionKL(), ["stages.1", "stages.2"], "AttentionKL compares one feature with one.*MatchScheme"),
]


@pytest.mark.parametrize(("loss", "addresses", "sentence"), KINDS)
def test_losses_without_a_meaning_for_a_match_are_refused_when_bound(loss: Any, addresses: Any, sentence: str) -> None:
    with pytest.raises(MatchError, match=sentence):
        bound(kd.Term(kd.Match(addresses, addresses), loss), Net(4), Net(4))


def test_a_loss_is_told_that_tokens_have_become_a_map() -> None:
    class Told(kd.losses.DistillationLoss):
        def bind(self, student: Any, teacher: Any) -> None:
            self.kinds = [info.kind for info in (*student, *teacher)]

    loss = Told()
    bound(kd.Term(kd.Match("stages.2", "hidden.1"), loss), Net(4), vit())
    assert loss.kinds == ["map", "map"]


class Pictures(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index % 4], "labels": torch.tensor(index % 5)}


def test_a_projection_is_trained_normalises_by_the_batch_and_is_in_the_checkpoint(tmp_path: Any) -> None:
    torch.manual_seed(0)
    scheme = kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers=[[1, 1]], projection="conv_bn", resize="max")
    assert "resize='max'" in repr(scheme)
    objective = kd.Objective({"t": kd.Term(STAGE, kd.losses.HiddenMSE(), projection="conv_bn")})
    module = kd.DistillationModule(Net(4), Net(8), objective)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(module, DataLoader(Pictures(), 4))
    projection = module.objective.named_terms()["t"].projection
    fresh = copy.deepcopy(objective).bind(model_info(Net(4)), model_info(Net(8))).named_terms()["t"].projection
    assert projection[1].num_batches_tracked == 2
    assert projection[1].running_mean.abs().sum() > 0
    assert not torch.equal(projection[1].weight, fresh[1].weight)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    for name, tensor in projection.state_dict().items():
        assert torch.equal(saved[f"objective.terms.t.projection.{name}"], tensor)


def test_a_linear_module_is_refused_on_maps_like_one_by_name() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 2))
    other = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 2))
    term = kd.Term(kd.Match("0", "0"), kd.losses.HiddenMSE(), projection=nn.Linear(8, 8))
    with pytest.raises(MatchError, match="projection='conv'"):
        kd.DistillationModule(net, other, kd.Objective({"maps": term}))
