from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_lightning.core.errors import DataError
from kd_lightning.data import Loader, TrainBatches
from kd_lightning.data.mixed import MixedBatches, MixedRows

LENGTHS = np.random.default_rng(0).integers(3, 60, size=100)


def epoch_of(batches: TrainBatches, epoch: int) -> list[int]:
    batches.set_epoch(epoch)
    return [row for rows in batches for row in rows]


@settings(deadline=None)
@given(labelled=st.integers(1, 30), others=st.integers(1, 30), ratio=st.floats(0.3, 4.0), seed=st.integers(0, 9))
def test_labelled_rows_come_in_every_epoch_and_the_others_go_round(labelled, others, ratio, seed):
    taken = round(ratio * labelled)
    if not taken:
        return
    batches = MixedBatches([1] * (labelled + others), 4, labelled, ratio, seed=seed)
    seen: Counter[int] = Counter()
    for epoch in range(5):
        rows = epoch_of(batches, epoch)
        assert len(rows) == labelled + taken
        assert sorted(row for row in rows if row < labelled) == list(range(labelled))
        seen.update(row for row in rows if row >= labelled)
        times = [seen[row] for row in range(labelled, labelled + others)]
        assert max(times) - min(times) <= 1


def test_without_a_ratio_everything_comes_once_per_epoch():
    batches = MixedBatches(LENGTHS, 8, labelled=30)
    assert sorted(epoch_of(batches, 0)) == sorted(epoch_of(batches, 1)) == list(range(100))
    assert epoch_of(batches, 0) != epoch_of(batches, 1)


def test_which_rows_come_depends_on_seed_and_epoch_and_on_nothing_else():
    def chosen(seed: int, epoch: int) -> set[int]:
        return {row for row in epoch_of(MixedBatches(LENGTHS, 8, 40, 0.5, seed=seed), epoch) if row >= 40}

    assert chosen(0, 2) == chosen(0, 2)
    assert chosen(0, 2) != chosen(1, 2)
    assert not chosen(0, 0) & chosen(0, 1)


def test_processes_share_an_epoch(monkeypatch):
    batches = MixedBatches(LENGTHS, 8, 40, 0.5)
    alone = sorted(epoch_of(batches, 3))
    ranks = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        ranks.append(epoch_of(MixedBatches(LENGTHS, 8, 40, 0.5), 3))
    assert sorted(ranks[0] + ranks[1]) == alone
    assert len(ranks[0]) == len(ranks[1])


def test_a_loader_goes_on_in_mid_epoch():
    def loader() -> Loader:
        made = Loader(list(range(100)), MixedBatches(LENGTHS, 8, 40, 0.5, seed=3), collate=list)
        made.batch_sampler.set_epoch(2)
        return made

    whole = list(loader())
    first = loader()
    reading = iter(first)
    begun = [next(reading) for _ in range(4)]
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert begun + list(resumed) == whole
    assert len(whole) == len(first) == -(-60 // 8)


def test_the_rows_that_a_cut_run_visits():
    batches = MixedBatches(LENGTHS, 8, 40, 0.5)
    drawn = set()
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn |= {row for rows in list(batches)[:3] for row in rows}
    assert set(MixedBatches(LENGTHS, 8, 40, 0.5).visited(epochs=2, limit=3).tolist()) == drawn
    assert len(drawn) <= 2 * 3 * 8


def test_a_ratio_that_takes_nothing_is_a_sentence():
    with pytest.raises(DataError, match=r"unlabelled_ratio=0.001 takes none of 60 unlabelled rows"):
        MixedBatches(LENGTHS, 8, 40, 0.001)


def test_rows_without_labels_are_numbered_on():
    own = [{"x": row, "sample_id": row} for row in range(3)]
    mixed = MixedRows(own, own)
    assert [mixed[row]["sample_id"] for row in range(6)] == list(range(6))
