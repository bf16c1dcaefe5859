"""What a model consists of, what it costs, and how far its classes lie apart."""

from kd_lightning.models.inspection.class_distances import class_distances
from kd_lightning.models.inspection.cost import Cost, compare, cost, latency_ms
from kd_lightning.models.inspection.tree import Part, parameter_tree

__all__ = ["Cost", "Part", "class_distances", "compare", "cost", "latency_ms", "parameter_tree"]
