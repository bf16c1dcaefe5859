from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_lightning.core.errors import DataError
from kd_lightning.data.sampler import Batches, EvalBatches, TrainBatches

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


def of_rank(monkeypatch: pytest.MonkeyPatch, batches: Batches, rank: int, world: int) -> list[list[int]]:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    drawn = list(batches)
    assert len(drawn) == len(batches)
    return drawn


def padding(drawn: list[list[int]]) -> int:
    return sum(sum(max(LENGTHS[rows]) - LENGTHS[row] for row in rows) for rows in drawn)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = TrainBatches(LENGTHS, 8, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    np.random.seed(1)
    first = order(0, 2)
    np.random.seed(2)
    assert order(0, 2) == first
    assert order(0, 3) != first
    assert order(1, 2) != first


def test_every_row_comes_once_in_one_process():
    drawn = list(TrainBatches(LENGTHS, 8))
    assert sorted(row for rows in drawn for row in rows) == list(range(1003))
    assert sorted(len(rows) for rows in drawn)[:2] == [1003 % 8, 8]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_in_equal_parts_of_similar_length(monkeypatch, world):
    ranks = [of_rank(monkeypatch, TrainBatches(LENGTHS, 8), rank, world) for rank in range(world)]
    assert len({len(drawn) for drawn in ranks}) == 1
    for step in zip(*ranks, strict=True):
        assert len({len(rows) for rows in step}) == 1
        longest = [max(LENGTHS[rows]) for rows in step]
        assert max(longest) - min(longest) <= 3
    rows = [row for drawn in ranks for batch in drawn for row in batch]
    assert set(rows) == set(range(1003))
    assert len(rows) - 1003 == -1003 % world


def test_grouping_needs_far_less_padding_than_chance():
    grouped, plain = (list(TrainBatches(LENGTHS, 8, group_by_length=group)) for group in (True, False))
    assert padding(grouped) < 0.15 * padding(plain)


def test_grouping_gives_batches_fresh_company_and_order_every_epoch():
    batches = TrainBatches(LENGTHS, 8)
    first = {frozenset(rows) for rows in batches}
    batches.set_epoch(1)
    second = [frozenset(rows) for rows in batches]
    assert not first & set(second)
    lengths = [LENGTHS[list(rows)].mean() for rows in second]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3


def test_overfitting_repeats_one_order():
    batches = TrainBatches(LENGTHS, 8, shuffle=False)
    first = list(batches)
    batches.set_epoch(5)
    assert list(batches) == first


def test_lightning_finds_set_epoch_where_it_looks():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    from kd_lightning.data.loader import Loader

    batches = TrainBatches(LENGTHS, 8)
    _set_sampler_epoch(Loader([0] * 1003, batches, collate=list), 4)
    assert batches.epoch == 4


def test_start_skips_batches_once():
    batches = TrainBatches(LENGTHS, 8)
    everything = list(batches)
    batches.start = 5
    assert list(batches) == everything[5:]
    assert list(batches) == everything


@given(rows=st.integers(1, 60), size=st.integers(1, 9), world=st.integers(1, 5))
@settings(deadline=None, max_examples=150)
def test_evaluation_shows_every_row_once_in_equally_many_batches(rows, size, world):
    with pytest.MonkeyPatch.context() as patch:
        lengths = np.arange(rows) % 7 + 1
        if rows < world:
            with pytest.raises(DataError, match=f"at most {rows}"):
                of_rank(patch, EvalBatches(lengths, size), 0, world)
            return
        ranks = [of_rank(patch, EvalBatches(lengths, size), rank, world) for rank in range(world)]
    assert len({len(drawn) for drawn in ranks}) == 1
    batches = [batch for drawn in ranks for batch in drawn]
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert all(1 <= len(batch) <= size + 1 for batch in batches)


def test_evaluation_without_grouping_keeps_the_order():
    assert [row for rows in EvalBatches(LENGTHS, 8, group_by_length=False) for row in rows] == list(range(1003))


@pytest.mark.parametrize("kind", [TrainBatches, EvalBatches])
def test_no_rows_and_no_batch_size_are_errors(kind):
    with pytest.raises(DataError, match="no rows"):
        kind([], 8)
    with pytest.raises(DataError, match="batch_size=0"):
        kind([1, 2], 0)


@pytest.mark.parametrize("limit", [2, 0.5])
def test_the_rows_that_a_cut_run_visits_are_those_its_processes_are_dealt(monkeypatch, limit):
    lengths = np.random.default_rng(0).integers(2, 9, 33)
    seen: set[int] = set()
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        batches = TrainBatches(lengths, batch_size=4, seed=3)
        for epoch in range(2):
            batches.set_epoch(epoch)
            seen |= {row for rows in list(batches)[:2] for row in rows}  # of five steps
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert TrainBatches(lengths, batch_size=4, seed=3).visited(2, limit, processes=2).tolist() == sorted(seen)
