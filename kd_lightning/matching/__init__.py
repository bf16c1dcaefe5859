"""Which student feature learns from which teacher feature: matches, layer maps, projections."""

from kd_lightning.matching.layer_maps import LEARNED, LayerMap, layer_map
from kd_lightning.matching.match import Match
from kd_lightning.matching.projections import Projection, build_projection

__all__ = ["LEARNED", "LayerMap", "Match", "Projection", "build_projection", "layer_map"]
