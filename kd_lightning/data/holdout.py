"""Which of the training rows are held out: a share of their contents, chosen by hash."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from kd_lightning.core.errors import DataError

log = logging.getLogger(__name__)


def check_share(holdout: object, what: str) -> None:
    """Check a share of rows that is to be held out.

    Args:
        holdout: what was given.
        what: what it is a share of, for the message.

    Raises:
        DataError: if it is no number above 0 and below 1.

    """
    if not isinstance(holdout, int | float) or not 0 < holdout < 1:
        raise DataError(f"holdout is a share of the {what}, above 0 and below 1; got {holdout!r}.")


def held_out(keys: Sequence[str], share: float) -> np.ndarray:
    """Return which rows are held out, (rows,): those of the contents with the smallest hashes.

    So neither the order of rows, nor a seed, nor how often a row comes decides, and rows of the same content are on the
    same side.

    Args:
        keys: the content of each row.
        share: of the different contents, rounded up.

    Example:
        >>> held_out(["a film", "a plot", "a film", "an actor"], 0.5).tolist()
        [False, True, False, True]

    """
    ordered = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    held = set(ordered[: math.ceil(share * len(ordered))])
    return np.array([key in held for key in keys], dtype=bool)


@cache  # a run makes several data modules of one configuration
def log_both(name: str, share: float, what: str) -> None:
    """Log, once, that the rows of a data set that are held out serve for selection and for the report."""
    log.info("%s: %g of the %s are held out: checkpoints are chosen on them, and scores are theirs.", name, share, what)
