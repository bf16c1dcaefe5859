"""Initialising a student of a family with stages, such as ResNet, from blocks and channels of its teacher."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.copy_layers import evenly_spread, tensors_of

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"(?P<stage>(?:stages|layers)\.(?P<k>\d+)\.(?:layers|blocks))\.(?P<block>\d+)")
_MAY_DIFFER = ("classifier", "embed")
"""Beginnings of names that keep their own values where labels, patches or positions are others."""


def copy_stages(teacher: nn.Module, student: nn.Module) -> list[str]:
    """Copy evenly spread blocks of a teacher's stages into its student, and of a wider teacher evenly spread channels.

    A stage's first block, which may change the resolution, is always the teacher's first, and the last of several its
    last. Which channels are kept depends on nothing but their number in teacher and student, so they are the same
    wherever two layers meet (Xu et al. 2024, "Initializing Models with Larger Ones", uniform selection). Values are
    copied, never shared.

    Args:
        teacher: a Transformers model with convolutional stages, or a Swin; may be of another dtype or device.
        student: one of the same family with as many stages, changed in place; no wider, and a Swin no narrower.

    Returns:
        The names of the student's tensors that keep their own values.

    Raises:
        ConfigError: if the student is wider, has other stages, or is a narrower Swin.

    Example:
        >>> from transformers import ResNetConfig, ResNetModel
        >>> teacher, student = (ResNetModel(ResNetConfig(embedding_size=8 * width, hidden_sizes=[16 * width],
        ...                     depths=[2 * width])) for width in (2, 1))
        >>> copy_stages(teacher, student)
        []
        >>> first = "encoder.stages.0.layers.1.layer.0.convolution.weight"
        >>> last = "encoder.stages.0.layers.3.layer.0.convolution.weight"
        >>> torch.equal(student.get_parameter(first), teacher.get_parameter(last)[::2, ::2])
        True

    """
    blocks, cuts = _blocks(teacher.config, student.config), not hasattr(student.config, "embed_dim")
    source, own = tensors_of(teacher), []
    with torch.no_grad():
        for name, target in tensors_of(student).items():
            origin = source.get(_BLOCK.sub(lambda found: _origin(found, blocks), name))
            fitting = None if origin is None else _cut(origin, target.shape, cuts, name.startswith("classifier"))
            if fitting is not None:
                target.copy_(fitting)
            elif name.startswith(_MAY_DIFFER):
                own.append(name)
            else:
                raise ConfigError(
                    f"The teacher has nothing to start the student's '{name}' {list(target.shape)} from: it must be "
                    "of the same family, no wider, and a Swin no narrower. Leave `layers` null."
                )
    log.info("The student starts from its teacher's stages; its own: %s.", ", ".join(own) or "nothing")
    return own


def _blocks(teacher: Any, student: Any) -> list[list[int]]:
    """Return for each stage the teacher's block, from 0, of each of the student's blocks; none without stages."""
    theirs, ours = (list(getattr(config, "depths", ())) for config in (teacher, student))
    if len(theirs) != len(ours) or any(few > many for many, few in zip(theirs, ours, strict=True)):
        raise ConfigError(
            f"A student of {ours} blocks cannot start from a teacher of {theirs}: it needs as many stages, and no more "
            "blocks in any. Leave `layers` null."
        )
    pairs = zip(theirs, ours, strict=True)
    return [[round(i * (many - 1) / max(few - 1, 1)) for i in range(few)] for many, few in pairs]


def _origin(found: re.Match[str], blocks: list[list[int]]) -> str:
    return f"{found['stage']}.{blocks[int(found['k'])][int(found['block'])]}"


def _cut(tensor: Tensor, shape: torch.Size, cuts: bool, head: bool) -> Tensor | None:
    """Return a tensor cut to a shape, or None if that cannot be.

    Args:
        tensor: the teacher's; a convolution's is (out, in, height, width).
        shape: the student's.
        cuts: whether channels may be cut at all.
        head: whether its first axis is classes, which are no channels.

    """
    if tensor.dim() != len(shape):
        return None
    for axis, (size, smaller) in enumerate(zip(tensor.shape, shape, strict=True)):
        if size != smaller:
            if not cuts or smaller > size or axis > 1 or (head and axis == 0):
                return None
            tensor = tensor.index_select(axis, evenly_spread(size, smaller).to(tensor.device))
    return tensor
