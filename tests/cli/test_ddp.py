from __future__ import annotations

import csv
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]

WITNESS = """
import torch
from lightning.pytorch import Callback

class Witness(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, module):
        parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
        torch.save(parameters, f"{self.folder}/rank{trainer.global_rank}of{trainer.world_size}.pt")
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def accuracy(student: Path, file: Path) -> float:
    """Score an exported student row by row, by nothing of ours."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    tokenizer = AutoTokenizer.from_pretrained(student)
    rows = pq.read_table(file).to_pylist()
    with torch.no_grad():
        guesses = [model(**tokenizer(row["sentence"], return_tensors="pt")).logits.argmax() for row in rows]
    return sum(int(guess) == row["label"] for guess, row in zip(guesses, rows, strict=True)) / len(rows)


@pytest.fixture
def on_two(on_films: list[str]) -> list[str]:
    return [*on_films, "trainer=ddp_cpu", "baseline=false", "callbacks.progress=null"]


@pytest.fixture
def with_witness(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "witness.py").write_text(WITNESS)
    monkeypatch.setitem(environment, "PYTHONPATH", str(tmp_path))
    return ["+callbacks.witness._target_=witness.Witness", f"+callbacks.witness.folder={tmp_path}"]


def check(run: Path, films_root: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"teacher", "student", "seconds", "config"}
    plain = accuracy(run / "student", films_root / "films" / "validation.parquet")
    assert metrics["student"]["metrics"]["accuracy"] == pytest.approx(plain, abs=1e-6)
    return metrics


def test_two_processes_make_one_run(
    command: Any, tmp_path: Path, on_two: list[str], with_witness: list[str], films_root: Path
) -> None:
    steps = ["trainer.limit_train_batches=4", "hydra.run.dir=one"]
    done = command(tmp_path, *on_two, *with_witness, *steps, "optimizer.lr=1e-2", "match=[hidden_mse]")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    check(tmp_path / "one", films_root)
    ranks = [torch.load(tmp_path / f"rank{rank}of2.pt", weights_only=True) for rank in (0, 1)]
    assert [name for name in ranks[0] if "projection" in name]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    assert done.stdout.count("student distilled") == 1
    assert len(list((tmp_path / "one" / "stages" / "student" / "csv").iterdir())) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir() and p.name != "__pycache__") == ["one"]

    wrong = command(tmp_path, *on_two, "optimizer.lr=1e30", "match=[]", *steps[:1], "hydra.run.dir=wrong")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: The loss became non-finite at step")
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_outer_torchrun_works_too(command: Any, tmp_path: Path, on_two: list[str], films_root: Path) -> None:
    done = command(tmp_path, *on_two, "hydra.run.dir=outer", before=TORCHRUN)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "outer", films_root)
    assert done.stdout.count("student distilled") == 1


@pytest.mark.slow
@pytest.mark.parametrize("before", [[], TORCHRUN], ids=["started by the command", "an outer torchrun"])
def test_two_processes_read_one_cache(
    before: list[str], command: Any, tmp_path: Path, on_two: list[str], films_root: Path
) -> None:
    typed = [*on_two, "match=[hidden_mse]", "cache=true", f"seed={1 + len(before)}", "hydra.run.dir=cached"]
    done = command(tmp_path, *typed, before=before)
    assert done.returncode == 0, done.stderr
    metrics = check(tmp_path / "cached", films_root)
    assert metrics["seconds"]["cache"] > 0
    assert done.stdout.count("Teacher cache in") == 1
    again = command(tmp_path, "resume=cached", before=before)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_two_processes_train_several_tasks(command: Any, tmp_path: Path, on_two: list[str]) -> None:
    done = command(tmp_path, *on_two, "+data@tasks.made_up=synthetic", "match=[hidden_mse]", "hydra.run.dir=both")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert set(metrics["student"]["metrics"]) == {"mean", "films/accuracy", "made_up/accuracy"}
    assert metrics["config"]["trainer"]["strategy"] == "ddp_find_unused_parameters_true"


@pytest.mark.slow
def test_an_outer_torchrun_of_another_size_is_refused(command: Any, tmp_path: Path, on_films: list[str]) -> None:
    done = command(tmp_path, *on_films, "hydra.run.dir=outer", before=TORCHRUN)
    assert done.returncode == 1
    assert "error: torchrun started 2 processes here, but trainer.devices=1 asks for 1." in done.stderr


@pytest.mark.slow
def test_two_machines_with_a_torchrun_each_make_one_run(
    command: Any, tmp_path: Path, on_two: list[str], films_root: Path, free_port: int
) -> None:
    typed = [*on_two, "trainer.devices=1", "trainer.num_nodes=2", "hydra.run.dir=both"]
    meet = ["-m", "torch.distributed.run", "--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port}"]
    with ThreadPoolExecutor(2) as machines:
        one, other = machines.map(lambda rank: command(tmp_path, *typed, before=[*meet, f"--node-rank={rank}"]), (0, 1))
    assert (one.returncode, other.returncode) == (0, 0), one.stderr + other.stderr
    check(tmp_path / "both", films_root)
    assert (one.stdout + other.stdout).count("student distilled") == 1


@pytest.mark.slow
def test_when_the_first_of_two_machines_fails_alone_the_other_ends(
    environment: dict[str, str], repository: Path, tmp_path: Path, on_two: list[str], free_port: int
) -> None:
    typed = [*on_two, "trainer.devices=1", "trainer.num_nodes=2", "hydra.run.dir=both"]
    meet = ["-m", "torch.distributed.run", "--nnodes=2", f"--master-port={free_port}", "--master-addr=127.0.0.1"]
    (tmp_path / "no_folder").touch()

    def machine(rank: int) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, *meet, f"--node-rank={rank}", str(repository / "train.py"), *typed]
        own = environment | ({} if rank else {"KD_CACHE": str(tmp_path / "no_folder")})
        return subprocess.run(argv, cwd=tmp_path, env=own, text=True, capture_output=True, timeout=400, check=False)

    with ThreadPoolExecutor(2) as machines:
        one, other = machines.map(machine, (0, 1))
    assert (one.returncode, other.returncode) == (1, 1), one.stderr + other.stderr
    assert "error: Rank 0, on the first machine, has stopped" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGKILL, -9)])
def test_two_ranks_stop_with_their_launcher(
    number: signal.Signals,
    code: int,
    on_films: list[str],
    environment: dict[str, str],
    repository: Path,
    tmp_path: Path,
) -> None:
    typed = [text for text in on_films if text != "debug=fast"]
    typed += ["trainer=ddp_cpu", "baseline=false", "trainer.max_epochs=2000", "teacher.trainer.max_epochs=1"]
    argv = [sys.executable, str(repository / "train.py"), *typed, "hydra.run.dir=run"]
    with (tmp_path / "output").open("w") as output:
        launcher = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=output, stderr=output)
        best = tmp_path / "run" / "stages" / "student" / "checkpoints" / "best.ckpt"
        until(lambda: best.is_file() or launcher.poll() is not None, 300)
        launcher.send_signal(number)
        assert launcher.wait(120) == code, (tmp_path / "output").read_text()
    until(lambda: not ranks_of(tmp_path), 10)
    assert not ranks_of(tmp_path)
    if number != signal.SIGKILL:
        step = torch.load(best.with_name("last.ckpt"), weights_only=True)["global_step"]
        assert (
            f"Stopped by {signal.Signals(number).name}, saved at step {step}. To go on:"
            in (tmp_path / "output").read_text()
        )
    if number == signal.SIGTERM:
        told = tmp_path / "resumed"
        with told.open("w") as output:
            again = [*argv[:2], "resume=run"]
            resumed = subprocess.Popen(again, cwd=tmp_path, env=environment, stdout=output, stderr=output)
            until(lambda: "Goes on from" in told.read_text() or resumed.poll() is not None, 120)
            resumed.send_signal(number)
            assert resumed.wait(120) == code, told.read_text()
        assert re.search(rf"Goes on from epoch \d+, step {step} \(", told.read_text())


def until(there: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.1)


def ranks_of(folder: Path) -> str:
    """Return the processes that work in a folder's run."""
    return subprocess.run(["pgrep", "-f", f"{folder}/run student"], text=True, capture_output=True, check=False).stdout


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_a_sweep_of_runs_with_two_processes_has_one_folder_and_one_table(
    command: Any, tmp_path: Path, on_two: list[str], films_root: Path
) -> None:
    done = command(tmp_path, "-m", *on_two, "temperature=2,8", "hydra.sweep.dir=all")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "all" / "sweep.csv").open() as lines:
        assert [(row["temperature"], row["status"]) for row in csv.DictReader(lines)] == [("2", "ok"), ("8", "ok")]
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
    assert done.stdout.count("Table and picture are in") == 1
    for job in ("0", "1"):
        check(tmp_path / "all" / job, films_root)
