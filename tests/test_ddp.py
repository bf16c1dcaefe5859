"""Two gloo processes against one process on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from . import processes

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(1000)]

TRAINED = ["sentences", "callback", "learned_maps", "tasks", "tags", "images", "relations", "strategies", "weighted",
           "average", "mutual", "exits"]  # fmt: skip

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> tuple[Any, Any, Any]:
    """Run the script for one process, and for the two ranks, at the same time; return their results."""
    folder = tmp_path_factory.mktemp("ddp")
    places = ((0, 1), (0, 2), (1, 2))
    runs = [
        ([str(SCRIPT), str(rank), str(world), str(folder)], folder / f"{rank}of{world}.txt") for rank, world in places
    ]
    codes = processes.together(*runs, timeout=900)
    assert codes == [0, 0, 0], "\n".join(log.read_text()[-4000:] for _, log in runs)
    whole, first, second = (torch.load(folder / f"{rank}of{world}.pt", weights_only=True) for rank, world in places)
    return whole, first, second


def close(one: dict[str, Any], other: dict[str, Any], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("case", TRAINED)
def test_two_unequal_shares_train_like_one_process_on_the_whole_batch(results, case):
    whole, first, _ = (result[case]["state"] for result in results)
    close(whole, first, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", TRAINED)
def test_students_and_projections_are_equal_on_both_ranks(results, case):
    _, first, second = (result[case]["state"] for result in results)
    close(first, second, atol=0, rtol=0)


def test_layer_weights_were_learned_and_are_equal_on_both_ranks(results):
    for state in (result["learned_maps"]["state"] for result in results):
        weights = state["objective.terms.hidden.loss.teacher_weights"]
        assert weights.sum() == pytest.approx(1)
        assert weights.max() - weights.min() > 0.01


def test_the_teacher_is_in_no_bucket_and_unchanged(results):
    whole, first, second = (result["sentences"] for result in results)
    assert not [name for name in first["reduced"] if "teacher" in name]
    assert len([name for name in first["state"] if "position_ids" not in name]) >= len(first["reduced"]) > 0
    for other in (first, second):
        close(whole["teacher"], other["teacher"], atol=0, rtol=0)


def test_no_label_on_any_rank_is_a_loss_of_zero_that_changes_nothing(results):
    whole, first, second = (result["no_labels"] for result in results)
    assert {float(result["loss"]) for result in (whole, first, second)} == {0.0}
    close(whole["state"], first["state"], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["weights", "buffers"])
def test_different_teachers_on_the_ranks_raise_on_each(results, kind):
    whole, first, second = (result["different_teachers"][kind] for result in results)
    assert whole == "no error"
    assert first.startswith("The teacher's weights on rank 0 differ from those on rank 1.")
    assert second.startswith("The teacher's weights on rank 1 differ from those on rank 0.")


@pytest.mark.parametrize("case", ["tasks", "strategies"])
def test_ddp_that_refuses_unused_parameters_is_an_error(results, case):
    whole, first, second = (result[case]["refused"] for result in results)
    assert whole == "no error"
    assert first == second
    assert "Use Trainer(strategy='ddp_find_unused_parameters_true')" in first
