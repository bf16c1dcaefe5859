"""What an address says, before any model is known: a layer's feature, or a path with an optional `:in`."""

from __future__ import annotations

import re
from dataclasses import dataclass

LAYER_KINDS = ("hidden", "attention", "scores", "query", "key", "value")

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
    """Return what a layer address says, or None if it is not one.

    Example:
        >>> layer_address("encoder.hidden.2")
        LayerAddress(stack='encoder', kind='hidden', index=2)
        >>> layer_address("encoder.layer.2") is None
        True

    """
    found = _LAYER.fullmatch(address)
    return LayerAddress(found["stack"] or "", found["kind"], int(found["index"])) if found else None


def split_input(address: str) -> tuple[str, bool]:
    """Return the module path of an address, and whether it asks for the module's input.

    Example:
        >>> split_input("classifier:in"), split_input("classifier")
        (('classifier', True), ('classifier', False))

    """
    return address.removesuffix(":in"), address.endswith(":in")
