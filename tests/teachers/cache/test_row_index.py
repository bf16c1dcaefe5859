from __future__ import annotations

import numpy as np
import pytest

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.rows import RowFingerprints, RowIndex


def prints(*hashes: int) -> RowFingerprints:
    values = np.array(hashes, np.int64)
    return RowFingerprints(values, np.repeat(values[:, None], 4, axis=1).astype(np.float32))


def test_rows_are_new_once():
    index = RowIndex()
    assert index.missing(np.array([7, 3, 7]), prints(1, 2, 1)) == [0, 1]
    index.add(np.array([7, 3]), prints(1, 2))
    index.add(np.array([5]), prints(3))
    assert index.missing(np.array([5, 9, 3, 7]), prints(3, 4, 2, 1)) == [1]
    assert len(index) == 3


@pytest.mark.parametrize(("ids", "values"), [([3, 9], (1, 1)), ([9, 9], (4, 5))], ids=["then", "in the batch"])
def test_another_row_of_the_same_id_raises_an_error(ids, values):
    index = RowIndex()
    index.add(np.array([7, 3]), prints(1, 2))
    with pytest.raises(CacheError, match=rf"Row {ids[1] if ids[0] == 9 else 3} \(its sample_id\) came twice"):
        index.missing(np.array(ids), prints(*values))
