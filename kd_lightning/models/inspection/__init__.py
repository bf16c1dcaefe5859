"""What a model is made of and what it costs, to read before distilling and after."""

from kd_lightning.models.inspection.comparison import Cost, compare, cost
from kd_lightning.models.inspection.tree import Part, parameter_tree

__all__ = ["Cost", "Part", "compare", "cost", "parameter_tree"]
