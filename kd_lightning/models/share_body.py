"""One student for several tasks: a shared body, and a head per task."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, TypeVar

from torch import nn

from kd_lightning.core.errors import ConfigError

Model = TypeVar("Model")


def share_body(model: Any, other: Model) -> Model:
    """Replace a Transformers model's body by another one's; it keeps its head, and a pooler that the other lacks.

    Both models then train the same body, and each can still be called, tapped and exported on its own.

    Args:
        model: the model whose body is used.
        other: a model of the same architecture and sizes, with a head for another task; changed in place.

    Returns:
        `other`.

    Raises:
        ConfigError: if one of them has no body, or the parts that both bodies have differ in shape.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> two, three = (BertForSequenceClassification(BertConfig(**sizes, num_labels=n)) for n in (2, 3))
        >>> share_body(two, three).bert is two.bert, three.classifier.out_features
        (True, 3)

    """
    prefixes = [getattr(one, "base_model_prefix", "") for one in (model, other)]
    bodies = [getattr(one, prefix, None) for one, prefix in zip((model, other), prefixes, strict=True)]
    body, replaced = bodies
    if not (isinstance(body, nn.Module) and isinstance(replaced, nn.Module) and all(prefixes)):
        names = " and ".join(type(one).__name__ for one in (model, other))
        raise ConfigError(f"Only Transformers models with a head can share a body, got {names}.")
    both = {name for name, _ in body.named_children() if getattr(replaced, name, None) is not None}
    shapes = [_shapes(one, both) for one in (body, replaced)]
    if shapes[0] != shapes[1] or not both:
        different = next((n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)), "")
        raise ConfigError(
            f"The bodies of the two students differ at '{different}': {shapes[0].get(different)} and "
            f"{shapes[1].get(different)}. Build both with the same sizes and vocabulary."
        )
    if _shapes(body) == _shapes(replaced):
        setattr(other, prefixes[1], body)
    else:  # token classification and question answering have no pooler
        for name in both:
            setattr(replaced, name, getattr(body, name))
    return other


def _shapes(body: nn.Module, parts: Container[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a body's tensors by name; only those of `parts`, if these are given."""
    named = {name: tuple(value.shape) for name, value in body.state_dict().items()}
    return {name: shape for name, shape in named.items() if parts is None or name.partition(".")[0] in parts}
