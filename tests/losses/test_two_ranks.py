"""Each loss in two processes with parts of a batch against one process with all of it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

import kd_lightning as kd

from .. import processes
from .cases import CASES, LossCase, Sample
from .cells import CELLS, EQUAL_SHARES, IN_EVAL, PASSES

pytestmark = pytest.mark.ddp

RANKS = 2
CUTS = (2, 1, 3)
"""How many of the four rows the first process has."""

Result = dict[str, Any]


def batch_of(sample: Sample) -> dict[str, Tensor]:
    """Return the batch that a sample's rows are of."""
    labels = "start_positions" if sample.addresses == ("start_logits",) else "labels"
    found = {"attention_mask": sample.mask, labels: sample.labels, "sample_id": sample.sample_id}
    found |= {} if sample.target is None else {sample.target: sample.teacher[0]}
    return {name: value for name, value in found.items() if value is not None}


def compared(case: LossCase, sample: Sample) -> Result:
    """Return the value of an objective with the loss, and its gradients for student and modules; or the error."""
    try:
        loss = case.build().double()
        if CELLS[case.loss.func.__name__].two_ranks == IN_EVAL:
            loss.eval()
        own = sample.requires_grad()
        teacher = None if case.name == "identity" else sample.target or sample.addresses
        objective = kd.Objective({"term": kd.Term(kd.Match(sample.addresses, teacher), loss, resize=None)})
        features = [dict(zip(sample.addresses, side, strict=True)) for side in (own.student, own.teacher)]
        report = objective(*features, batch_of(sample), across_ranks=True, seed=7)
        parameters = list(loss.parameters())
        found = torch.autograd.grad(report.total, [*own.student, *parameters])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": report.total.detach(), "student": found[: len(own.student)], "modules": found[len(own.student) :]}


def share(sample: Sample, rank: int, cut: int) -> Sample:
    """Return a process's rows. The model's own loss, which has none, is a mean of as many numbers."""
    if sample.addresses != ("loss",):
        return sample.slice(slice(0, cut) if rank == 0 else slice(cut, None))
    part = slice(0, cut) if rank == 0 else slice(cut, None)
    return sample.map(lambda x: (x + torch.arange(4.0, dtype=x.dtype))[part].mean())


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    file = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", file, timedelta(seconds=300), world_size=RANKS, rank=rank)
    try:
        found = {
            (case.name, cut): compared(case, share(case.sample(0).double(), rank, cut))
            for case in CASES
            for cut in CUTS
        }
        torch.save(found, folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int], Result]]:
    """Run all rows in one pair of processes; return what each found."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [processes.SERVER.Process(target=worker, args=(rank, folder)) for rank in range(RANKS)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * RANKS
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def check(case: LossCase, cut: int, results: list[Result]) -> None:
    """Compare the average over processes with one process; raise the first error, or an AssertionError."""
    for result in results:
        if "error" in result:
            raise RuntimeError(result["error"])
    sample = case.sample(0).double()
    whole = compared(case, share(sample, 0, 4) if sample.addresses == ("loss",) else sample)
    near = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(sum(r["value"] for r in results) / RANKS, whole["value"], **near)
    if sample.addresses != ("loss",):
        for first, second, expected in zip(*(r["student"] for r in (*results, whole)), strict=True):
            torch.testing.assert_close(torch.cat([first, second]) / RANKS, expected, **near)
    for first, second, expected in zip(*(r["modules"] for r in (*results, whole)), strict=True):
        torch.testing.assert_close((first + second) / RANKS, expected, **near)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_have_the_value_and_gradients_of_one(case: LossCase, cut: int, ranks: Any) -> None:
    cell, results = CELLS[case.loss.func.__name__].two_ranks, [found[case.name, cut] for found in ranks]
    if cell in (PASSES, IN_EVAL) or (cell == EQUAL_SHARES and cut == 2):
        check(case, cut, results)
    else:
        expected = "not close" if cell == EQUAL_SHARES else cell
        with pytest.raises(Exception, match=re.escape(expected)):
            check(case, cut, results)
