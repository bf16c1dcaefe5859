"""Where a model's transformer layers are, found from its structure and not from a list of model names."""

from __future__ import annotations

from kd_lightning.features.listed import listed_stacks
from kd_lightning.features.modules import Node
from kd_lightning.features.recorded import recorded_stacks
from kd_lightning.features.stacks import Stacks


def find_stacks(nodes: dict[str, Node]) -> Stacks:
    """Return the stacks of a model: as its Transformers parts declare them, else as its lists of layers show them."""
    return Stacks(recorded_stacks(nodes) or listed_stacks(nodes))
