from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import DataError
from kd_lightning.data import Mask, MultiTask, SyntheticSentiment, TrainBatches
from kd_lightning.data.task_sampler import EachTask, TaskBatches

SIZES = (40, 12)


def batches(tau: float = 1.0, seed: int = 0, steps: int | None = None, size: int = 3) -> TaskBatches:
    lengths = [np.arange(n) % 7 + 1 for n in SIZES]
    return TaskBatches([TrainBatches(own, size, seed) for own in lengths], tau, seed, steps)


def task_of(rows: list[int]) -> int:
    tasks = {int(row >= SIZES[0]) for row in rows}
    assert len(tasks) == 1
    return tasks.pop()


def rank(monkeypatch: pytest.MonkeyPatch, number: int, world: int) -> None:
    monkeypatch.setenv("RANK", str(number))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_tasks_are_drawn_with_probability_proportional_to_size_to_the_tau(tau):
    """Within four standard errors of 4000 draws."""
    drawn = Counter(batches(tau, steps=4000).order(0).tolist())
    expected = SIZES[0] ** tau / (SIZES[0] ** tau + SIZES[1] ** tau)
    error = (expected * (1 - expected) / 4000) ** 0.5
    assert drawn[0] / 4000 == pytest.approx(expected, abs=4 * error)


def test_a_tasks_rows_all_come_before_any_comes_again_over_epochs():
    sampler = batches(tau=0.0)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for epoch in range(6):
        sampler.set_epoch(epoch)
        for rows in sampler:
            seen[task_of(rows)] += rows
    for task, size in enumerate(SIZES):
        rounds = [sorted(seen[task][i : i + size]) for i in range(0, len(seen[task]) - size + 1, size)]
        assert len(rounds) > 1
        first = 0 if task == 0 else SIZES[0]
        assert all(whole == list(range(first, first + size)) for whole in rounds)


def test_rounds_of_a_task_come_in_another_order():
    sampler = batches(tau=0.0, steps=40)
    small = [tuple(rows) for rows in sampler if task_of(rows) == 1]
    assert sorted(small[0:4]) != sorted(small[4:8])


def test_all_ranks_draw_the_same_task_in_every_step_and_share_its_rows(monkeypatch):
    orders, drawn = [], []
    for number in range(2):
        rank(monkeypatch, number, 2)
        sampler = batches(tau=0.5)
        sampler.set_epoch(3)
        drawn.append(list(sampler))
        orders.append([task_of(rows) for rows in drawn[-1]])
        assert len(sampler) == len(drawn[-1]) == 9
    assert orders[0] == orders[1]
    for one, other in zip(*drawn, strict=True):
        assert not set(one) & set(other)


def test_an_epoch_is_a_function_of_seed_and_epoch_alone():
    walked = batches()
    for epoch in range(4):
        walked.set_epoch(epoch)
        last = list(walked)
    fresh = batches()
    fresh.set_epoch(3)
    assert list(fresh) == last
    other = batches(seed=1)
    other.set_epoch(3)
    assert list(other) != last


def test_validation_goes_through_every_task_once(monkeypatch):
    for world in (1, 2):
        seen = []
        for number in range(world):
            rank(monkeypatch, number, world)
            data = module()
            data.setup()
            seen += [(b["task"], int(i)) for b in data.val_dataloader() for i in b["sample_id"]]
        assert sorted(seen) == sorted([("large", i) for i in range(20)] + [("small", i) for i in range(10)])


def test_batches_of_evaluation_are_as_many_on_every_rank(monkeypatch):
    lengths = []
    for number in range(2):
        rank(monkeypatch, number, 2)
        sampler = EachTask([TrainBatches([1] * 7, 2), TrainBatches([1] * 3, 2)])
        lengths.append(len(list(sampler)))
        assert len(sampler) == lengths[-1]
    assert lengths[0] == lengths[1]


def test_the_first_batches_of_evaluation_are_of_all_tasks():
    data = module()
    data.setup()
    assert [batch["task"] for batch in data.val_dataloader()][:2] == ["large", "small"]


def module(**options: Any) -> MultiTask:
    tasks = {
        "large": SyntheticSentiment(40, 20, batch_size=4),
        "small": SyntheticSentiment(12, 10, 0.0, 1, batch_size=4),
    }
    return MultiTask(tasks, **options)


def test_batches_hold_their_tasks_own_rows():
    data = module()
    data.setup()
    for batch in data.train_dataloader():
        rows = data.tasks[batch["task"]].rows("train")
        for row, ids, label in zip(batch["sample_id"], batch["input_ids"], batch["labels"], strict=True):
            own = rows[int(row)]
            assert ids[: len(own["input_ids"])].tolist() == own["input_ids"].tolist()
            assert int(label) == own["labels"]


def test_a_loader_resumes_in_mid_epoch():
    data = module()
    data.setup()
    whole = [(b["task"], b["sample_id"].tolist()) for b in data.train_dataloader()]
    cut = data.train_dataloader()
    for _, _ in zip(range(5), cut, strict=False):
        pass
    resumed = data.train_dataloader()
    resumed.load_state_dict(cut.state_dict())
    rest = [(b["task"], b["sample_id"].tolist()) for b in resumed]
    assert rest in (whole[5:], whole[6:])
    assert len(rest) == len(whole) - cut.state_dict()["seen"]


def test_sizes_and_fingerprint_are_those_of_all_tasks():
    data = module()
    data.setup()
    assert data.sizes == {"large train": 40, "large validation": 20, "small train": 12, "small validation": 10}
    assert data.fingerprint == module(tau=0.3).fingerprint
    other = MultiTask({"large": data.tasks["large"]})
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": {}}, "Several tasks need data modules by name"),
        ({"tasks": {"a b": None}}, "letters, digits and underscores but got 'a b'"),
        ({"tasks": {"a": 3}}, "Expected the data of task 'a' to be a data module but got int"),
        ({"tau": -1.0}, "tau is the exponent of the tasks' sizes, from 0; got -1.0"),
        ({"steps": 0}, "An epoch needs at least one step; got steps=0"),
    ],
)
def test_settings_that_make_no_sense_are_a_sentence(arguments, words):
    with pytest.raises(DataError, match=words):
        MultiTask(**{"tasks": {"a": SyntheticSentiment(4, 4)}} | arguments)


def test_the_shares_are_exact_for_huge_sizes_and_exponents():
    huge = TaskBatches([TrainBatches([1] * 10, 5), TrainBatches([1] * 1000, 5)], tau=200.0)
    assert huge.shares.sum() == pytest.approx(1.0)
    assert all(np.isfinite(huge.shares))
    assert all(a <= b for a, b in pairwise(huge.shares))


def test_each_round_of_a_task_is_augmented_anew_and_resumes_the_same():
    def loader() -> Any:
        small = SyntheticSentiment(4, 4, 0.0, 1, batch_size=4, augment=Mask(0.5, token="[UNK]"))
        data = MultiTask({"large": SyntheticSentiment(40, 20, batch_size=4), "small": small}, tau=0.0)
        data.setup()
        return data.train_dataloader()

    whole = list(loader())
    small = [batch for batch in whole if batch["task"] == "small"]
    assert len(small) > 2
    order = [batch["sample_id"].argsort() for batch in small]
    versions = {str(batch["input_ids"][rows].tolist()) for batch, rows in zip(small, order, strict=True)}
    assert len(versions) == len(small)
    cut, seen = loader(), 4
    for _, _ in zip(range(seen), cut, strict=False):
        pass
    resumed = loader()
    resumed.load_state_dict({**cut.state_dict(), "seen": seen})
    for one, other in zip(resumed, whole[seen:], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_overfitting_sees_the_same_batches_in_every_epoch():
    rows = [TrainBatches(np.ones(n), 3, shuffle=False) for n in SIZES]
    sampler = TaskBatches(rows, tau=0.5, shuffle=False)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == first
