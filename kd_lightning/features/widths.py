"""How wide a feature is and what its axes are, from configs and structure, before anything runs."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_lightning.core.types import Kind
from kd_lightning.features.recorded import is_transformers_model
from kd_lightning.features.selfattention import attends
from kd_lightning.features.stacks import Stack

_HEADS = ("classifier", "classification_head", "qa_outputs", "score", "head", "heads", "fc", "lm_head", "out", "output")
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
_Widths = tuple[int | None, int | None]


def hidden_width(stack: Stack) -> int | None:
    """Return the width of a stack's hidden states; None where its layers differ (Swin) or do not tell."""
    config = getattr(stack.owner.module, "config", None)
    if config is not None and any(hasattr(config, name) for name in ("depths", "hidden_sizes")):
        return None
    width = getattr(config, "hidden_size", None)
    if isinstance(width, int):
        return width
    norms = [_norm_widths(module) for layer in stack.layers for module in layer.module.modules()]
    widths = {found[1] for found in norms if found is not None}
    return widths.pop() if len(widths) == 1 else None


def head_width(attention: nn.Module, kind: str) -> int | None:
    """Return the width of one head's `query`, `key` or `value`."""
    own = {"value": ("v_head_dim",)}.get(kind, ("qk_head_dim",))
    for name in (*own, "head_dim", "attention_head_size", "key_value_proj_dim"):
        if isinstance(width := getattr(attention, name, None), int):
            return width
    config = getattr(attention, "config", None)
    return getattr(config, "head_dim", None)


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
    return _norm_widths(module) or _composite_widths(module)


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


def logits_width(model: nn.Module) -> int | None:
    """Return the number of classes or words of a model's `logits`."""
    if is_transformers_model(model):
        embeddings: Any = model.get_output_embeddings()  # type: ignore[operator]
        if embeddings is not None:
            return module_widths(embeddings)[1]
        kinds = ("SequenceClassification", "TokenClassification", "ImageClassification", "AudioClassification")
        labels = type(model).__name__.endswith(kinds)
        return model.config.num_labels if labels else None  # type: ignore[union-attr,return-value]
    if isinstance(model, nn.Sequential):
        return module_widths(model)[1]
    heads = [getattr(model, name) for name in _HEADS if isinstance(getattr(model, name, None), nn.Module)]
    return module_widths(heads[0])[1] if len(heads) == 1 else None


def _norm_widths(module: nn.Module) -> _Widths | None:
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
    takes = None if _norm_widths(first) or _is_convolution(first) else module_widths(first)[0]
    elsewhere = isinstance(last, nn.Embedding) or _is_convolution(last) or (_norm_widths(last) and attends(module))
    return takes, None if elsewhere else module_widths(last)[1]


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _encoder_layer_widths(module: nn.Module) -> _Widths:
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return module.linear1.in_features, module.linear2.out_features
    return None, None
