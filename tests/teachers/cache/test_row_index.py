from __future__ import annotations

import numpy as np
import pytest

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.row_fingerprints import Marks
from kd_lightning.teachers.cache.row_index import Seen


def marks(*hashes: int) -> Marks:
    values = np.array(hashes, np.int64)
    return Marks(values, np.repeat(values[:, None], 4, axis=1).astype(np.float32))


def test_rows_are_new_once():
    seen = Seen()
    assert seen.missing(np.array([7, 3, 7]), marks(1, 2, 1)) == [0, 1]
    seen.add(np.array([7, 3]), marks(1, 2))
    seen.add(np.array([5]), marks(3))
    assert seen.missing(np.array([5, 9, 3, 7]), marks(3, 4, 2, 1)) == [1]
    assert len(seen) == 3


@pytest.mark.parametrize(("ids", "values"), [([3, 9], (1, 1)), ([9, 9], (4, 5))], ids=["then", "in the batch"])
def test_another_row_of_the_same_number_is_a_sentence(ids, values):
    seen = Seen()
    seen.add(np.array([7, 3]), marks(1, 2))
    with pytest.raises(CacheError, match=rf"Row {ids[1] if ids[0] == 9 else 3} \(its sample_id\) came twice"):
        seen.missing(np.array(ids), marks(*values))
