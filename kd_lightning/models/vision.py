"""Students of image models of Transformers: those of a teacher's family with other sizes, and a small DeiT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.copy_stages import copy_stages
from kd_lightning.models.heads import build
from kd_lightning.models.shrink import Like, changed, config_of, given, shrink

_PLAIN = ("vit", "deit")
_STAGED = ("resnet", "convnext", "swin", "mobilenet_v2")


def vision_student(
    like: Like,
    depth: float = 1.0,
    width: float = 1.0,
    layers: str | Sequence[int] | None = None,
    *,
    num_labels: int | None = None,
    task: str = "image-classification",
    **overrides: Any,
) -> nn.Module:
    """Build a student of its teacher's family, ViT, DeiT, ResNet, ConvNeXt, Swin or MobileNetV2, with other sizes.

    Nothing is shared with the teacher; the student is float32, on the CPU.

    Args:
        like: the teacher, or its configuration.
        depth: share of the layers, or of the blocks of each stage, in (0, 1]; there is at least one. A MobileNetV2 has
            one depth.
        width: share of the channels, and of the heads, in (0, 1].
        layers: None for random weights; `"uniform"` for evenly spread layers of the teacher, or blocks of each of its
            stages; a narrower student keeps evenly spread channels of them. Of a ViT or DeiT also the other rules and
            lists of `copy_layers`. A narrower Swin has random weights.
        num_labels: classes of the head; the teacher's by default.
        task: the head, see `kd_lightning.models.heads.AUTO_CLASSES`.
        overrides: fields of the configuration, such as `image_size`; where the family has no `image_size`, it is left
            out.

    Raises:
        ConfigError: if the teacher is of another family, a share is outside (0, 1], a field is unknown, or the family
            cannot have such a depth or such layers.
        MatchError: if the teacher does not have the layers.

    Example:
        >>> from transformers import ConvNextConfig
        >>> tiny = ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 4], num_stages=2)
        >>> config = vision_student(tiny, depth=0.5, width=0.5, num_labels=3).config
        >>> config.depths, config.hidden_sizes, config.num_labels
        ([1, 2], [4, 8], 3)

    """
    config: Any = config_of(like)
    if config.model_type not in (*_PLAIN, *_STAGED):
        raise ConfigError(
            f"A {config.model_type} teacher has no student by depth and width, only one of these families: "
            f"{', '.join((*_PLAIN, *_STAGED))}. Choose another student, such as resnet20."
        )
    for name, share in (("depth", depth), ("width", width)):
        if not 0 < share <= 1:
            raise ConfigError(f"Expected argument `{name}` to be a share in (0, 1] but got {share}.")
    if not hasattr(config, "image_size"):
        overrides.pop("image_size", None)
    if config.model_type in _PLAIN:
        sizes = _plain_sizes(config, depth, width) | overrides
        return shrink(like, num_labels=num_labels, task=task, layers=layers, **sizes)
    student = build(task, changed(config, num_labels, _staged_sizes(config, depth, width) | overrides))
    if layers is not None:
        _start(like, student, layers)
    return student


def _start(like: Like, student: nn.Module, layers: str | Sequence[int]) -> None:
    if not isinstance(like, nn.Module):
        raise ConfigError(
            f"layers={layers!r} starts from a teacher's weights, but `like` is a configuration and no model: give a "
            "teacher, or layers=None (student.layers=null)."
        )
    if layers != "uniform":
        raise ConfigError(f"Blocks of stages are spread evenly, so `layers` is uniform or null, but got {layers!r}.")
    theirs, ours = (getattr(model.config, "embed_dim", None) for model in (like, student))
    if theirs != ours:
        raise ConfigError(
            "A narrower Swin cannot start from its teacher, because its windows' heads would mix several of the "
            "teacher's: leave `layers` null for random weights, or give width=1 and a depth."
        )
    copy_stages(like, student)


def _plain_sizes(config: Any, depth: float, width: float) -> dict[str, Any]:
    hidden = _share(config.hidden_size, width)
    return {
        "num_hidden_layers": _share(config.num_hidden_layers, depth),
        "hidden_size": hidden,
        "num_attention_heads": _heads(config.num_attention_heads, width, hidden),
        "intermediate_size": _share(config.intermediate_size, width),
    }


def _staged_sizes(config: Any, depth: float, width: float) -> dict[str, Any]:
    """Return the fields of a configuration that say how many blocks and channels the stages have."""
    if config.model_type == "mobilenet_v2":
        if depth != 1:
            raise ConfigError("A MobileNetV2 has one depth: give depth=1, and a width such as 0.5.")
        return {"depth_multiplier": config.depth_multiplier * width}
    depths = {"depths": [_share(blocks, depth) for blocks in config.depths]}
    if config.model_type == "swin":
        first = _share(config.embed_dim, width)
        widths = [first * 2**k for k in range(len(config.depths))]
        heads = [_heads(heads, width, size) for heads, size in zip(config.num_heads, widths, strict=True)]
        return depths | {"embed_dim": first, "num_heads": heads, "hidden_size": widths[-1]}
    stem = {"embedding_size": _share(config.embedding_size, width)} if config.model_type == "resnet" else {}
    return depths | stem | {"hidden_sizes": [_share(size, width) for size in config.hidden_sizes]}


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def _heads(heads: int, share: float, width: int) -> int:
    """Return a share of the heads, or the next smaller number that divides the width."""
    return next(count for count in range(_share(heads, share), 0, -1) if width % count == 0)


def deit_tiny(
    num_labels: int = 10,
    image_size: int | Sequence[int] = 32,
    *,
    patch_size: int = 4,
    hidden_size: int = 192,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 3,
    intermediate_size: int = 768,
    like: Any = None,
    task: str = "image-classification",
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
    problem_type: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build DeiT-tiny with a distillation token (Touvron et al. 2021), with patches for small images.

    Its outputs are `cls_logits`, `distillation_logits` and their mean, `logits`, (B, C) each: the published recipe
    compares the first with the labels and the second with the teacher.

    Args:
        num_labels: number of classes.
        image_size: height and width of the images.
        patch_size: height and width of a patch; 16 where images are 224×224.
        hidden_size: width.
        num_hidden_layers: number of layers.
        num_attention_heads: heads of each layer.
        intermediate_size: width of the feed-forward layers.
        like, task: unused: accepted because every builder is called with them.
        id2label, label2id, problem_type: what the configuration says of the labels.
        options: further fields of `DeiTConfig`.

    Example:
        >>> model = deit_tiny(num_hidden_layers=1, hidden_size=12, intermediate_size=24)
        >>> type(model).__name__, model.config.image_size
        ('DeiTForImageClassificationWithTeacher', 32)

    """
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    labels = given(num_labels=num_labels, id2label=id2label, label2id=label2id, problem_type=problem_type)
    config = DeiTConfig(
        image_size=image_size if isinstance(image_size, int) else list(image_size),
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        **labels,
        **options,
    )
    return DeiTForImageClassificationWithTeacher(config)
