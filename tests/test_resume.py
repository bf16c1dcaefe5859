"""Killed in the middle of an epoch and resumed, a run ends bit-equal to one that was never killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from . import processes

SCRIPT = Path(__file__).with_name("resumable.py")

pytestmark = pytest.mark.timeout(1500)


def launch(*runs: tuple[Path, str, int, int, int]) -> list[int | None]:
    """Run several processes at the same time and return their exit codes."""
    started = []
    for folder, kind, *numbers in runs:
        folder.mkdir(exist_ok=True)
        argv = [str(SCRIPT), str(folder), kind, *map(str, numbers)]
        started.append((argv, folder / f"{kind}{numbers[1]}.txt"))
    return processes.together(*started, timeout=700)


def check(codes: list[int | None], wanted: list[int], folder: Path) -> None:
    texts = "\n".join(f"{file}: {file.read_text()[-3000:]}" for file in folder.rglob("*.txt"))
    assert codes == wanted, texts


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def same_end(one: Path, other: Path) -> None:
    whole, resumed = (torch.load(file, weights_only=True) for file in (one, other))
    assert whole["steps"] == resumed["steps"] == 18
    assert len(whole["optimizer"]["param_groups"]) == 2
    assert any("projection" in name for name in whole["weights"])
    different = [name for name, value in whole["weights"].items() if not torch.equal(value, resumed["weights"][name])]
    assert not different
    assert equal(whole["optimizer"], resumed["optimizer"])


def test_a_killed_run_ends_like_one_never_killed_whatever_the_workers(tmp_path):
    whole, none, two = (tmp_path / name for name in ("whole", "none", "two"))
    killed = launch((whole, "whole", 0, 0, 1), (none, "killed", 0, 0, 1), (two, "killed", 2, 0, 1))
    check(killed, [0, -signal.SIGKILL, -signal.SIGKILL], tmp_path)
    for folder in (none, two):
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 12
    check(launch((none, "resumed", 0, 0, 1), (two, "resumed", 2, 0, 1)), [0, 0], tmp_path)
    for folder in (none, two):
        same_end(whole / "whole0.pt", folder / "resumed0.pt")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_killed_ranks_end_like_two_never_killed(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runs = [(folder, kind, 0, rank, 2) for folder, kind in ((whole, "whole"), (cut, "killed")) for rank in (0, 1)]
    check(launch(*runs), [0, 0, -signal.SIGKILL, -signal.SIGKILL], tmp_path)
    check(launch(*((cut, "resumed", 0, rank, 2) for rank in (0, 1))), [0, 0], tmp_path)
    for rank in (0, 1):
        same_end(whole / f"whole{rank}.pt", cut / f"resumed{rank}.pt")
