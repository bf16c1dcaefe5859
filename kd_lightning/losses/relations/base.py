"""What losses on relations between samples have in common."""

from __future__ import annotations

from typing import Any

from kd_lightning.losses.maps.base import Features, MapLoss
from kd_lightning.losses.options import check_choice


class RelationLoss(MapLoss):
    """Base of losses that compare (B, B) relations between samples: rows of all devices are one batch.

    Args:
        gather: whether they are; without it each device relates its own rows, which is another loss.

    """

    kinds = ("vector", "map", "classes")
    gather = True

    def __init__(self, gather: bool = True) -> None:
        super().__init__()
        check_choice("gather", gather, (True, False))
        self.gather = gather

    def count(self, student: Features, teacher: Features, **given: Any) -> None:
        """Return None: it is no mean over samples."""
        return
