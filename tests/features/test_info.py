"""What is known before anything runs: layers, and axes and widths that are never wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.core.types import FeatureInfo, ModelInfo
from kd_lightning.features import FeatureTap, model_info

SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (0,),
    "vector": (2,),
    "tokens": (3,),
    "heads": (4,),
    "attention": (4,),
    "map": (4,),
    "classes": (2, 3),
    "positions": (2,),
    "queries": (3,),
}
"""Numbers of axes by kind."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def arrived(model: nn.Module, batch: Any, addresses: list[str]) -> dict[str, torch.Tensor]:
    """Return the features that a forward pass collects; where some do not arrive, halves are tried by themselves."""
    with torch.no_grad(), FeatureTap(model, addresses) as tap:
        model(**batch)
        try:
            return dict(tap.take())
        except AddressError:
            if len(addresses) == 1:
                return {}
    half = len(addresses) // 2
    return arrived(model, batch, addresses[:half]) | arrived(model, batch, addresses[half:])


def sizes(model: nn.Module, batch: Any, addresses: list[str]) -> dict[str, int]:
    """Return the size of the axis that is the width of every feature that arrives: of maps, channels."""
    info = model_info(model)
    axes = {address: 1 if info.feature(address).kind == "map" else -1 for address in addresses if _has(info, address)}
    return {address: feature.shape[axes[address]] for address, feature in arrived(model, batch, list(axes)).items()}


def wrong(model: nn.Module, batch: Any, addresses: list[str]) -> list[tuple[str, FeatureInfo, tuple[int, ...]]]:
    """Return the features that are not what was said of them, of those that a forward pass collects."""
    info, found = model_info(model), []
    for address, feature in arrived(model, batch, addresses).items():
        said = info.feature(address)
        fits = said.kind is None or feature.ndim in SHAPES[said.kind]
        if said.kind == "tokens" and "input_ids" in batch:
            fits = fits and feature.shape[1] in (7, 5)  # words of an encoder; of a decoder, or four patches and a token
        if said.kind == "map" and said.width is not None:
            fits = fits and feature.shape[1] == said.width
        if said.kind in ("vector", "tokens") and said.width is not None:
            fits = fits and feature.shape[-1] == said.width
        if not fits:
            found.append((address, said, tuple(feature.shape)))
    return found


def all_addresses(model: nn.Module, fields: list[str]) -> list[str]:
    info = model_info(model)
    modules = [name + side for name, _ in model.named_modules() if name for side in ("", ":in")]
    stacks = [name for name in ("", *STACKS) if _has(info, f"{name}.hidden.1".strip("."))]
    layers = [f"{stack}.{layer}".strip(".") for stack in stacks for layer in LAYERS]
    return [address for address in [*modules, *layers, *fields] if _has(info, address)]


STACKS = ["encoder", "decoder", "text_model", "vision_model"]
LAYERS = ["hidden.0", "hidden.1", "hidden.2", "attention.1", "query.2"]
FIELDS = ["logits", "start_logits", "last_hidden_state", "encoder_last_hidden_state", "pooler_output", "pred_boxes"]


def test_kinds_are_right_or_unknown(family: Any) -> None:
    model, batch = family.build(), family.batch()
    assert not wrong(model, batch, all_addresses(model, FIELDS))


PICTURES: dict[str, tuple[Any, str | None]] = {
    "ResNetForImageClassification": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "map"),
    "RegNetModel": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}, "map"),
    "MobileNetV1Model": ({"image_size": 32, "depth_multiplier": 0.35}, "map"),
    "DINOv3ConvNextModel": ({"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}, "map"),
    "SwinModel": (
        {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "tokens",
    ),
    "YolosForObjectDetection": (
        {"image_size": [32, 32], "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 24, "num_detection_tokens": 5},
        "tokens",
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_kinds_of_vision_models(name: str) -> None:
    options, kind = PICTURES[name]
    config = getattr(tf, name.partition("Model")[0].partition("For")[0] + "Config")(**options)
    model = getattr(tf, name)(config).eval()
    assert model_info(model).feature("hidden.1").kind == kind
    assert not wrong(model, {"pixel_values": torch.randn(2, 3, 32, 32)}, all_addresses(model, FIELDS))


def test_a_detectors_decoder_has_queries() -> None:
    backbone = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    parts = ("layers", "attention_heads", "ffn_dim")
    sizes = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in parts}
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": backbone}
    model = tf.DetrForObjectDetection(tf.DetrConfig(**sizes, **own, d_model=16, num_queries=5)).eval()
    info = model_info(model)
    assert info.feature("encoder.hidden.1") == FeatureInfo("tokens", 16, "encoder")
    assert info.feature("decoder.hidden.1") == FeatureInfo("queries", 16, "decoder")
    assert info.feature("pred_boxes").kind == "queries"


@pytest.mark.parametrize(
    ("name", "address", "expected"),
    [
        ("bert", "hidden.0", FeatureInfo("tokens", 16)),
        ("bert", "attention.3", FeatureInfo("attention")),
        ("bert", "query.1", FeatureInfo("heads", 8)),
        ("bert", "loss", FeatureInfo("scalar")),
        ("bert", "logits", FeatureInfo("classes", 3)),
        ("bert", "bert.encoder.layer.1.output", FeatureInfo("tokens", 16)),
        ("bert", "bert.encoder.layer.1.attention.self.query", FeatureInfo(None, 16)),
        ("bert", "bert.pooler", FeatureInfo(None, 16)),
        ("bert_qa", "end_logits", FeatureInfo("positions")),
        ("dinov2", "pooler_output", FeatureInfo("vector", 16)),
        ("dinov2", "embeddings.patch_embeddings.projection", FeatureInfo("map", 16)),
        ("qwen2", "last_hidden_state", FeatureInfo("tokens", 16)),
        ("t5", "encoder.hidden.1", FeatureInfo("tokens", 16, "encoder")),
        ("t5", "logits", FeatureInfo("classes", 50, "decoder")),
        ("t5", "encoder_last_hidden_state", FeatureInfo("tokens", None, "encoder")),
        ("bart", "model.decoder.hidden.2", FeatureInfo("tokens", 16, "decoder")),
        ("bart", "model.decoder.layers.1", FeatureInfo("tokens", 16, "decoder")),
        ("clip", "text_model.attention.1", FeatureInfo("attention", None, "text_model")),
    ],
)
def test_what_is_known_of_a_feature(families: dict[str, Any], name: str, address: str, expected: FeatureInfo) -> None:
    info = model_info(families[name].build())
    assert info.feature(address) == expected
    assert info.width(address) == expected.width


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (nn.Conv2d(4, 3, 1), ("map", "map")),
        (nn.BatchNorm2d(4), ("map", "map")),
        (nn.Conv1d(4, 3, 1), (None, None)),
        (nn.Linear(4, 3), (None, None)),
        (nn.GRU(4, 3, batch_first=True), ("tokens", "tokens")),
        (nn.GRU(4, 3), (None, None)),
        (nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.ReLU()), ("map", "map")),
        (nn.Sequential(nn.Conv2d(4, 3, 1), nn.Flatten()), ("map", None)),
        (nn.Sequential(), (None, None)),
    ],
)
def test_kinds_of_single_modules(module: nn.Module, kinds: tuple[str | None, str | None]) -> None:
    info = model_info(nn.ModuleDict({"part": module}))
    assert (info.feature("part:in").kind, info.feature("part").kind) == kinds


def test_layers_that_convolve_give_maps_and_layers_that_do_neither_are_unknown() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)) for _ in range(2))
    info = model_info(nn.ModuleDict({"blocks": blocks}))
    assert info.feature("hidden.1") == FeatureInfo("map", 8)
    assert info.feature("hidden.0") == FeatureInfo("map")  # a first block may be given other channels
    rows = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2))
    assert model_info(nn.ModuleDict({"blocks": rows})).feature("hidden.1") == FeatureInfo(None, 8)


def test_fields_of_an_adapter_are_known_by_their_names() -> None:
    info = model_info(nn.Linear(2, 2), has_outputs=True)
    kinds = [info.feature(name).kind for name in ("logits", "start_logits", "anything")]
    assert kinds == ["classes", "positions", None]


def test_widths_of_layers_and_logits_are_known(family: Any) -> None:
    model, batch = family.build(), family.batch()
    info = model_info(model)
    kinds = ("query.1", "key.2", "value.2") if family.name not in ("deberta", "mpnet") else ()
    addresses = [address for address in ("logits", "last_hidden_state") if _has(info, address)]
    for stack in family.stacks:
        prefix = f"{stack}." if stack else ""
        addresses += [f"{prefix}hidden.{k}" for k in range(info.layers(stack) + 1)]
        addresses += [prefix + kind for kind in kinds]
        assert info.width(f"{prefix}attention.1") is None
    for address, size in sizes(model, batch, addresses).items():
        assert info.width(address) == size, address


def test_widths_of_modules_are_right_or_unknown(family: Any) -> None:
    model, batch = family.build(), family.batch()
    info = model_info(model)
    modules = {name: module for name, module in model.named_modules() if name}
    plain = [name for name, module in modules.items() if not isinstance(module, CONVOLUTIONS)]
    found = sizes(model, batch, [name + side for name in plain for side in ("", ":in")])
    widths = {address: info.width(address) for address in found}
    assert all(width in (None, found[address]) for address, width in widths.items())
    for name, module in modules.items():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and name in found:
            assert widths[name] is not None, name


@pytest.mark.parametrize(
    ("module", "takes", "gives"),
    [
        (nn.Linear(4, 3), 4, 3),
        (nn.LayerNorm(4), 4, 4),
        (nn.RMSNorm(4), 4, 4),
        (nn.BatchNorm1d(4), 4, 4),
        (nn.Embedding(9, 4), None, 4),
        (nn.GRU(4, 3), 4, 3),
        (nn.GRU(4, 3, bidirectional=True), 4, 6),
        (nn.LSTM(4, 3, bidirectional=True, proj_size=2), 4, 4),
        (nn.Conv1d(4, 3, 1), 4, 3),
        (nn.Conv2d(4, 3, 1), 4, 3),
        (nn.MultiheadAttention(4, 2), 4, 4),
        (nn.TransformerEncoderLayer(4, 2, 8), 4, 4),
        (nn.Sequential(nn.Dropout(), nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU()), 4, 2),
        (nn.ReLU(), None, None),
        (nn.ModuleList([nn.Linear(4, 3)]), None, None),
    ],
)
def test_widths_of_single_modules(module: nn.Module, takes: int | None, gives: int | None) -> None:
    info = model_info(nn.ModuleDict({"part": module}))
    assert (info.width("part:in"), info.width("part")) == (takes, gives)


def test_widths_of_a_plain_stack_come_from_its_layers() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)
    info = model_info(model)
    assert info.width("hidden.1") == info.width("layers.0") == info.width("layers.1:in") == 16
    assert info.width("query.1") == 8
    assert info.width("logits") is None


def test_logits_of_plain_models() -> None:
    assert model_info(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 7))).width("logits") == 7
    model = nn.Module()
    model.fc, model.features = nn.Linear(4, 5), nn.Linear(4, 4)
    assert model_info(model).width("logits") == 5
    model.head = nn.Linear(4, 6)  # which of the two gives the logits cannot be known
    assert model_info(model).width("logits") is None


def test_layers_of_different_widths_are_measured_where_their_model_takes_images() -> None:
    config = tf.SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
    info = model_info(tf.SwinModel(config))
    assert info.layers() == 2
    assert [info.feature(f"hidden.{k}") for k in range(3)] == [FeatureInfo("tokens", width) for width in (8, 16, 16)]


class Residual(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out))
        self.short = nn.Conv2d(width, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.path(x) + self.short(x)).relu()


class ResNet(nn.Module):
    """What is not a module of torch's own has no width by its structure."""

    def __init__(self, image: int | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, 1, 1)
        self.stages = nn.ModuleDict({"1": Residual(4, 8, 1), "2": Residual(8, 16, 2)})
        self.drop, self.pool = nn.Dropout(), nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(16 if image is None else 16 * image**2 // 4, 5)
        self.flat = image is not None
        self.register_buffer("calls", torch.zeros(()))
        self.last = None

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = x = self.stages["2"](self.stages["1"](self.stem(pixel_values)))
        return self.classify(self.drop((x if self.flat else self.pool(x)).flatten(1)))


@pytest.mark.parametrize("image", [None, 28])
def test_kinds_and_widths_of_ones_own_image_model_are_measured(image: int | None) -> None:
    info = model_info(ResNet(image))
    expected = {
        "stages.1": FeatureInfo("map", 8),
        "stages.2": FeatureInfo("map", 16),
        "stages.2:in": FeatureInfo("map", 8),
        "drop": FeatureInfo("vector", 16 if image is None else 16 * 14 * 14),
        "logits": FeatureInfo("classes", 5),
    }
    assert {address: info.feature(address) for address in expected} == expected


def test_a_fake_pass_leaves_a_model_and_chance_as_they_were() -> None:
    model, called = ResNet().train(), []
    model.stages["2"].eval()
    model.stages["1"].register_forward_hook(lambda *args: called.append(args))
    model.stages["1"].path[1].register_forward_pre_hook(lambda *args: called.append(args))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, chance = [module.training for module in model.modules()], torch.get_rng_state()
    assert model_info(model).width("stages.2") == 16
    assert torch.equal(torch.get_rng_state(), chance)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.last is None
    assert not called
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1


def test_it_runs_once_for_all_features(monkeypatch: Any) -> None:
    runs, forward = [], ResNet.forward

    def counted(self: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
        runs.append(len(pixel_values))
        return forward(self, pixel_values)

    monkeypatch.setattr(ResNet, "forward", counted)
    info = model_info(ResNet())
    assert not runs
    assert [info.width(f"stages.{k}") for k in (1, 2)] == [8, 16]
    assert len(runs) == 2  # for two sizes of images


def test_text_models_and_models_of_other_inputs_never_run(bert: nn.Module) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    bert.bert.forward = refuse
    assert model_info(bert).feature("bert.encoder.layer.1.attention.self.query") == FeatureInfo(None, 16)
    other = nn.Sequential(Residual(3, 4, 1))
    other[0].forward = refuse
    assert model_info(other).feature("0") == FeatureInfo()


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(3, 4, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.block(pixel_values) if pixel_values.sum().item() > 0 else pixel_values


class CannotBeCopied(DependsOnValues):
    def __deepcopy__(self, memo: Any) -> None:
        raise TypeError


@pytest.mark.parametrize("model", [DependsOnValues(), CannotBeCopied()], ids=type)
def test_a_model_that_does_not_run_on_fake_images_is_unknown_as_before(model: nn.Module) -> None:
    info = model_info(model)
    assert info.feature("block") == FeatureInfo()
    assert info.feature("block.short") == FeatureInfo("map", 4)


TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
MEASURED: dict[str, tuple[dict[str, Any], dict[str, FeatureInfo]]] = {
    "ResNetForImageClassification": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3},
        {
            "hidden.0": FeatureInfo("map", 8),
            "hidden.2": FeatureInfo("map", 16),
            "resnet.encoder.stages.1.layers.0": FeatureInfo("map", 16),
            "logits": FeatureInfo("classes", 3),
        },
    ),
    "ConvNextForImageClassification": (
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        {"hidden.1": FeatureInfo("map", 8), "hidden.2": FeatureInfo("map", 16)},
    ),
    "MobileNetV2ForImageClassification": (
        {"image_size": 32, "depth_multiplier": 0.35},
        {"hidden.1": FeatureInfo("map", 8), "mobilenet_v2.layer.15": FeatureInfo("map", 112)},
    ),
    "ViTForImageClassification": (
        {"image_size": 16, "patch_size": 4, **TINY},
        {"hidden.1": FeatureInfo("tokens", 8), "vit.layernorm": FeatureInfo("tokens", 8)},
    ),
    "DeiTForImageClassificationWithTeacher": (
        {"image_size": 16, "patch_size": 4, "num_labels": 7, **TINY},
        {"hidden.2": FeatureInfo("tokens", 8)}
        | dict.fromkeys(["logits", "cls_logits", "distillation_logits"], FeatureInfo("classes", 7)),
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_features_of_transformers_image_models(name: str) -> None:
    options, expected = MEASURED[name]
    model = getattr(tf, name)(getattr(tf, name.partition("For")[0] + "Config")(**options)).eval()
    info = model_info(model)
    assert {address: info.feature(address) for address in expected} == expected
    images = torch.randn(2, 3, options.get("image_size", 32), options.get("image_size", 32))
    addresses = all_addresses(model, FIELDS)
    some = addresses[:: 1 + len(addresses) // 60]
    assert not wrong(model, {"pixel_values": images}, [*expected, *some])


def test_albert_counts_calls(families: dict[str, Any]) -> None:
    assert model_info(families["albert"].build()).layers() == 3
    assert model_info(families["albert_groups"].build()).layers() == 8


def test_an_unknown_stack_names_those_there_are(families: dict[str, Any]) -> None:
    with pytest.raises(AddressError, match="'encoder', 'decoder'"):
        model_info(families["bart"].build()).layers("encodr")
    with pytest.raises(AddressError, match="no list of equal layers in this Linear"):
        model_info(nn.Linear(2, 2)).layers()


def test_model_info_follows_the_protocol(bert: nn.Module) -> None:
    assert isinstance(model_info(bert), ModelInfo)
    with pytest.raises(AddressError, match=r"hidden\.1"):
        model_info(bert).width("hiden.1")


def test_output_fields_are_those_the_model_declares(families: dict[str, Any]) -> None:
    model_info(families["bert_qa"].build()).check(["start_logits", "end_logits", "loss"])
    model_info(families["qwen2"].build()).check(["last_hidden_state"])
    model_info(families["clip"].build()).check(["logits_per_image", "text_embeds"])
    for name, field in (("bert_qa", "logits"), ("qwen2", "logits"), ("bert", "end_logits")):
        with pytest.raises(AddressError, match=f"'{field}'"):
            model_info(families[name].build()).check([field])
    model_info(families["bert"].build(), has_outputs=True).check(["end_logits"])


def _has(info: ModelInfo, address: str) -> bool:
    try:
        info.check([address])
    except AddressError:
        return False
    return True
