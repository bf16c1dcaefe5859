"""What a model consists of and what it costs: parameters, memory, multiply-adds, latency."""

from kd_lightning.models.inspection.cost import Cost, compare, cost, latency_ms
from kd_lightning.models.inspection.tree import Part, parameter_tree

__all__ = ["Cost", "Part", "compare", "cost", "latency_ms", "parameter_tree"]
