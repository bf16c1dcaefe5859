"""What a model consists of, what it costs, how far its classes lie apart, and what leaving it early saves."""

from kd_lightning.models.inspection.class_distances import class_distances
from kd_lightning.models.inspection.cost import Cost, compare, cost, latency_ms
from kd_lightning.models.inspection.exit_curve import ExitPoint, exit_curve
from kd_lightning.models.inspection.tree import Part, parameter_tree

__all__ = [
    "Cost",
    "ExitPoint",
    "Part",
    "class_distances",
    "compare",
    "cost",
    "exit_curve",
    "latency_ms",
    "parameter_tree",
]
