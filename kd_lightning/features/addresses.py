"""Parsing addresses, before any model is known: a layer's feature, or a path with an optional `:in`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kd_lightning.core.types import Kind

LAYER_KINDS = ("hidden", "attention", "scores", "query", "key", "value")

_KIND_OF_LAYER: dict[str, Kind] = {
    "attention": "attention",
    "scores": "attention",
    "query": "heads",
    "key": "heads",
    "value": "heads",
}

_KIND_OF_FIELD: dict[str, Kind] = {
    "loss": "scalar",
    "start_logits": "positions",
    "end_logits": "positions",
    "pred_boxes": "queries",
}

_LAYER = re.compile(rf"(?:(?P<stack>.+)\.)?(?P<kind>{'|'.join(LAYER_KINDS)})\.(?P<index>0|[1-9][0-9]*)")


@dataclass(frozen=True)
class LayerAddress:
    """A feature of one transformer layer, such as `encoder.hidden.2`.

    Args:
        stack: the prefix (`encoder`), empty where the model has only one stack.
        kind: one of `LAYER_KINDS`.
        index: 0 is the embeddings (`hidden` only), 1 the first layer.
    """

    stack: str
    kind: str
    index: int


def layer_address(address: str) -> LayerAddress | None:
    """Return the parts of a layer address, or None if it is not one.

    Example:
        >>> layer_address("encoder.hidden.2")
        LayerAddress(stack='encoder', kind='hidden', index=2)
        >>> layer_address("encoder.layer.2") is None
        True

    """
    found = _LAYER.fullmatch(address)
    return LayerAddress(found["stack"] or "", found["kind"], int(found["index"])) if found else None


def split_input(address: str) -> tuple[str, bool]:
    """Return the module path of an address, and whether it means the module's input.

    Example:
        >>> split_input("classifier:in"), split_input("classifier")
        (('classifier', True), ('classifier', False))

    """
    return address.removesuffix(":in"), address.endswith(":in")


def address_kind(address: str) -> Kind | None:
    """Return what the axes of a feature are, if its address alone determines them.

    Hidden states and module paths give None: whether they are tokens or maps depends on the model.

    Example:
        >>> address_kind("encoder.attention.2"), address_kind("logits"), address_kind("a/end_logits")
        ('attention', 'classes', 'positions')
        >>> address_kind("hidden.2") is None
        True

    """
    address = address.rpartition("/")[2]
    if (layer := layer_address(address)) is not None:
        return _KIND_OF_LAYER.get(layer.kind)
    if address in _KIND_OF_FIELD:
        return _KIND_OF_FIELD[address]
    return "classes" if address.isidentifier() and address.endswith("logits") else None
