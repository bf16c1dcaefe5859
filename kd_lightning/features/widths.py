"""What the class of a single module tells: how wide what it takes and gives is, and what the axes are."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from kd_lightning.core.types import Kind
from kd_lightning.features.attention import attends

_OF_MAPS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
)
_ELEMENTWISE = (nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid)
_Widths: TypeAlias = tuple[int | None, int | None]


def module_widths(module: nn.Module) -> _Widths:
    """Return the widths of what a module takes and gives; None for what its structure does not tell.

    A convolution's width is its channels, although they are not on its features' last axis.

    Example:
        >>> module_widths(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.GRU(8, 3, bidirectional=True)))
        (4, 6)

    """
    if isinstance(module, (nn.Linear, nn.Bilinear)):
        return getattr(module, "in_features", None), module.out_features
    if _is_convolution(module):
        return module.in_channels, module.out_channels  # type: ignore[return-value]
    if isinstance(module, nn.RNNBase):
        size = module.proj_size or module.hidden_size
        return module.input_size, size * (2 if module.bidirectional else 1)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return None, module.embedding_dim
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, module.embed_dim
    return norm_widths(module) or _composite_widths(module)


def module_kinds(module: nn.Module) -> tuple[Kind | None, Kind | None]:
    """Return what the axes are of what a module takes and gives; None for what its class does not tell.

    Example:
        >>> module_kinds(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        ('map', 'map')

    """
    if isinstance(module, nn.Sequential):
        ends = [child for child in module.children() if not isinstance(child, _ELEMENTWISE)] or [nn.Identity()]
        return module_kinds(ends[0])[0], module_kinds(ends[-1])[1]
    if isinstance(module, _OF_MAPS):
        return "map", "map"
    if isinstance(module, nn.RNNBase) and module.batch_first:
        return "tokens", "tokens"
    return None, None


def norm_widths(module: nn.Module) -> tuple[int | None, int | None] | None:
    """Return the widths of a norm or GPT-2's linear layer; None of any other module."""
    shape = getattr(module, "normalized_shape", None)
    if shape:
        return shape[-1], shape[-1]
    features = getattr(module, "num_features", None)
    if isinstance(features, int) and isinstance(module, nn.modules.batchnorm._NormBase):
        return features, features
    weights = dict(module.named_parameters())
    if "Norm" in type(module).__name__ and set(weights) <= {"weight", "bias"} and "weight" in weights:
        return weights["weight"].shape[-1], weights["weight"].shape[-1]
    if type(module).__name__ == "Conv1D" and "weight" in weights:  # GPT-2's linear layer, with its weight transposed
        return weights["weight"].shape[0], weights["weight"].shape[1]
    return None


def _composite_widths(module: nn.Module) -> _Widths:
    """Return the ends of a chain of modules."""
    trained = [child for child in module.children() if any(True for _ in child.parameters())]
    if not trained:
        return None, None
    if isinstance(module, nn.Sequential):
        return module_widths(trained[0])[0], module_widths(trained[-1])[1]
    if type(module).__module__.startswith("transformers."):
        return _transformers_widths(module, trained[0], trained[-1])
    return _encoder_layer_widths(module)


def _transformers_widths(module: nn.Module, first: nn.Module, last: nn.Module) -> _Widths:
    # Transformers registers the parts of a module in the order they run, apart from norms in front and tables behind,
    # and norms of single heads.
    takes = None if norm_widths(first) or _is_convolution(first) else module_widths(first)[0]
    elsewhere = isinstance(last, nn.Embedding) or _is_convolution(last) or (norm_widths(last) and attends(module))
    return takes, None if elsewhere else module_widths(last)[1]


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _encoder_layer_widths(module: nn.Module) -> _Widths:
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return module.linear1.in_features, module.linear2.out_features
    return None, None
