"""Keeps `nn.TransformerEncoder` from handing nested tensors to its layers while they are tapped.

It does so in eval mode without gradients and with padding, and its layers then take no other than their fused path, in
which hooks are not called.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

from torch import nn

from kd_lightning.features.hooks import Remover

_holders: WeakKeyDictionary[nn.TransformerEncoder, int] = WeakKeyDictionary()


def keep_padded(encoder: nn.TransformerEncoder) -> Remover:
    """Switch nested tensors off; returns what to call to have them back, once nobody else needs them off."""
    if encoder not in _holders:
        if not getattr(encoder, "use_nested_tensor", False):
            return _nothing
        _holders[encoder] = 0
        encoder.use_nested_tensor = False
    _holders[encoder] += 1
    return partial(_release, encoder)


def _release(encoder: nn.TransformerEncoder) -> None:
    _holders[encoder] -= 1
    if not _holders[encoder]:
        del _holders[encoder]
        encoder.use_nested_tensor = True


def _nothing() -> None:
    """Undo nothing."""
