"""What a term gives its loss, and what it makes of what that returns: features by address, rows of all ranks, means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.batch import is_batch_field, required_field
from kd_lightning.core.errors import AddressError, MatchError, hint
from kd_lightning.core.types import Batch, Features
from kd_lightning.functional.gathering import gather_rows
from kd_lightning.objective.match import Match


def pick(features: Features, addresses: tuple[str, ...], batch: Batch) -> list[Tensor]:
    """Return the addressed features, those of the batch's own fields too.

    Raises:
        AddressError: if one is not there.

    """
    found = []
    for address in addresses:
        if is_batch_field(address):
            found.append(required_field(batch, address))
        elif address in features:
            found.append(features[address])
        else:
            raise AddressError(f"The feature '{address}' was not collected. {hint(address, features)}")
    return found


def of_all_ranks(sides: list[list[Tensor]], given: dict[str, Any]) -> tuple[list[list[Tensor]], dict[str, Any]]:
    """Return both sides, and the arguments that have a value per row, with the rows of all ranks."""
    names = [name for name, value in given.items() if isinstance(value, Tensor)]
    found = iter(gather_rows(*(x for side in sides for x in side), *(given[name] for name in names)))
    gathered = [[next(found) for _ in side] for side in sides]
    return gathered, {**given, **{name: next(found) for name in names}}


def mean_of(found: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Return the mean over all that several means ran over, and its count."""
    counts = [count for _, count in found if count is not None]
    if len(counts) < len(found):
        return torch.stack([value for value, _ in found]).mean(), None
    shares, total = torch.stack(counts), torch.stack(counts).sum()
    return (torch.stack([value for value, _ in found]) * shares).sum() / total.clamp(min=1), total


def scalar(value: object, match: Match) -> Tensor:
    """Return what a loss returned as a scalar tensor.

    Raises:
        MatchError: if it is none.

    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise MatchError(f"Expected the loss of {match} to be a scalar tensor but got {got}.")
