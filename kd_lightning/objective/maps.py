"""The one place where features of a match become comparable maps: tokens of patches to maps, then maps to one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from kd_lightning.core.batch import is_batch_field
from kd_lightning.core.types import FeatureInfo, Kind
from kd_lightning.features.addresses import address_kind
from kd_lightning.functional.maps import Pooling, same_size, tokens_to_map
from kd_lightning.objective.masks import kind_of


class Side(NamedTuple):
    """The features of one model in a match, and by address what is known of them."""

    addresses: Sequence[str]
    features: Sequence[Tensor]
    known: Mapping[str, FeatureInfo]

    def each(self) -> list[Side]:
        """Return a side for each of the features."""
        return [Side([a], [x], self.known) for a, x in zip(self.addresses, self.features, strict=True)]

    def kinds(self) -> list[Kind | None]:
        """Return the kind of each feature; None for fields of the batch, and where nothing is known."""
        return [_kind(*pair, self.known) for pair in zip(self.addresses, self.features, strict=True)]


def comparable(
    student: Side, teacher: Side, has_tokens: Callable[[], bool], resize: Pooling | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return both sides with tokens as maps where the other side has maps, and all maps in one size.

    Args:
        student: behind its projection.
        teacher: of the same match; may be empty.
        has_tokens: whether the batch has a mask of tokens: features of four axes of which nothing is known are then no
            maps. It is asked only where there are such features.
        resize: how larger maps are pooled; None keeps their sizes.

    Returns:
        The features of both sides; those that are no maps, and matches without maps, as they are.

    Raises:
        MatchError: if the tokens of a side are not the patches of an image with the other's proportions.

    """
    features, kinds = [*student.features, *teacher.features], [*student.kinds(), *teacher.kinds()]
    maps = _places_of_maps(features, kinds, has_tokens)
    if maps and len(features) > 1:
        height, width = features[maps[0]].shape[2:]
        for index in (index for index, kind in enumerate(kinds) if kind == "tokens" and features[index].ndim == 3):
            features[index] = tokens_to_map(features[index], height, width)
            maps.append(index)
        if resize is not None:
            sized = same_size(*(features[index] for index in maps), mode=resize)
            for index, feature in zip(maps, sized, strict=True):
                features[index] = feature
    count = len(student.features)
    return features[:count], features[count:]


def as_compared(*sides: Sequence[FeatureInfo]) -> list[list[FeatureInfo]]:
    """Return what is known of the features of all sides once tokens have become maps where a side has maps.

    Example:
        >>> as_compared([FeatureInfo("tokens", 8)], [FeatureInfo("map", 8)])[0]
        [FeatureInfo(kind='map', width=8, stack='')]

    """
    if not any(info.kind == "map" for side in sides for info in side):
        return [list(side) for side in sides]
    return [[replace(info, kind="map") if info.kind == "tokens" else info for info in side] for side in sides]


def _places_of_maps(
    features: Sequence[Tensor], kinds: Sequence[Kind | None], has_tokens: Callable[[], bool]
) -> list[int]:
    """Return which features are maps: those known to be, and beside or without them square ones of unknown kind."""
    four = [index for index, x in enumerate(features) if isinstance(x, Tensor) and x.ndim == 4]
    known = [index for index in four if kinds[index] == "map"]
    square = [index for index in four if kinds[index] is None and features[index].shape[2] == features[index].shape[3]]
    if not known and len(features) > len(square):  # what has four axes beside tokens may be heads
        return []
    guessed = [] if not square or has_tokens() else square
    return [index for index in four if index in known or index in guessed]


def _kind(address: str, feature: Tensor, known: Mapping[str, FeatureInfo]) -> Kind | None:
    if is_batch_field(address) or not isinstance(feature, Tensor):
        return None
    info = known.get(address, FeatureInfo())
    return info.kind or address_kind(address) or kind_of(address, feature)
