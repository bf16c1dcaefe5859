"""Further data sets of the same columns, to train on beside a data set's own rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.data.reading.files import Source

log = logging.getLogger(__name__)


def extra_source(name: str, root: str | Path | None = None, hubs: Mapping[str, Any] | None = None) -> Source:
    """Return where an extra data set is.

    Args:
        name: a Parquet file, `DIR/FILE.parquet`; or a data set below the root or on the hub, `NAME/SPLIT` or `NAME`.
            NAME alone is its `train` split or, below a root that has none, its `validation` split.
        root: folder of data sets, or None for the hub.
        hubs: where data sets are on the hub: by name, the arguments `hub` and `subset` of `Source`.

    Raises:
        DataError: the name on the hub is not known.

    Example:
        >>> str(extra_source("drcd/test", "data")), str(extra_source("more/news.parquet").stem)
        ('data/drcd/test.parquet', 'news')

    """
    if name.endswith(".parquet"):
        file = Path(name).expanduser().absolute()
        return Source(file.parent.name, file.stem, file.parent.parent, split="extra")
    folder, _, stem = name.partition("/")
    if root is not None:
        return Source(folder, stem or _standing_in(Path(root).expanduser() / folder), root, split="extra")
    if folder not in (hubs or {}):
        raise DataError(
            f"It is not known where on the hub the extra data set '{folder}' is: give data.root=DIR, with DIR/{folder} "
            f"in it, the path of a Parquet file, or data.extra_hubs. {hint(folder, hubs or {})}"
        )
    return Source(folder, stem or "train", None, split="extra", **hubs[folder])  # type: ignore[index]


def _standing_in(folder: Path) -> str:
    """Return `train`, or `validation` where there is that alone."""
    if (folder / "train.parquet").is_file() or not (folder / "validation.parquet").is_file():
        return "train"
    _say(folder)
    return "validation"


@cache  # a run makes several data modules of one configuration
def _say(folder: Path) -> None:
    log.warning("Extra data: %s has no train.parquet, so its validation.parquet is trained on.", folder)
