"""Every benchmark runs with very small models and leaves its rows, with what they were measured on."""

from __future__ import annotations

import importlib
import io
import json
import sys
from contextlib import redirect_stdout
from functools import partial
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader
from transformers import BertTokenizerFast

import kd_lightning as kd
from benchmarks import contenders, ours, report
from benchmarks.corpus import Corpus
from benchmarks.images import QUIET
from benchmarks.models import make_batches, make_teacher


def run(name: str, folder: Any, *typed: str) -> Any:
    """Run a benchmark and return its file."""
    file = folder / f"{name}.json"
    importlib.import_module(f"benchmarks.{name}").main(["--tiny", "--json", str(file), *typed])
    found = json.loads(file.read_text())
    assert found["benchmark"] == name
    where = found["environment"]
    assert torch.__version__.startswith(where["torch"])  # a build's own mark, as +cu130, is not in all metadata
    assert where["threads"] == torch.get_num_threads()
    assert {"transformers", "lightning", "textbrewer", "cpu", "arguments", "command", "date"} <= where.keys()
    return found


def column(found: Any, name: str) -> list[Any]:
    return [row[name] for row in found["rows"]]


def test_step(tmp_path, capsys):
    found = run("step", tmp_path)
    assert column(found, "contender") == list(contenders.BUILDERS)
    assert all(row["min ms"] > 0 and row["rounds"] == 2 for row in found["rows"])
    assert len(found["targets"]) == 5
    assert all(row["met"] == (row["measured"] <= row["at most"]) for row in found["targets"])
    printed = capsys.readouterr().out
    assert report.table(found["rows"]) in printed
    assert report.table(found["targets"]) in printed


def carry_out_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Carry out here what processes of their own would do, whose imports take most of their time; lists commands."""
    from benchmarks import memory

    started: list[list[str]] = []

    def in_this_process(command: list[str], **options: Any) -> CompletedProcess[str]:
        started.append(command)
        with redirect_stdout(io.StringIO()) as out:
            importlib.import_module(command[2]).main(command[3:])
        return CompletedProcess(command, 0, out.getvalue())

    monkeypatch.setattr(memory.subprocess, "run", in_this_process)
    return started


def test_memory_of_each_contender_by_itself(tmp_path, monkeypatch):
    started = carry_out_here(monkeypatch)
    names = [contenders.CACHED, contenders.PLAIN]
    rows = run("memory", tmp_path, "--contenders", *names)["rows"]
    assert [row["contender"] for row in rows] == names
    assert [command[:3] for command in started] == [[sys.executable, "-m", "benchmarks.memory"]] * 2
    row = rows[0]
    assert row["peak MiB"] > row["before MiB"] - 1 > row["libraries MiB"] / 2 > 25
    assert row["step MiB"] == pytest.approx(row["peak MiB"] - row["before MiB"])


def test_attention(tmp_path):
    found = run("attention", tmp_path)
    assert len(found["rows"]) == 3 * len(found["targets"]) == 12
    assert set(column(found, "length")) == {8, 16}


def test_scale(tmp_path):
    found = run("scale", tmp_path)
    assert {(row["axis"], row["value"]) for row in found["rows"]} >= {("length", 4), ("layers", 0), ("depth", 2)}
    small, large = [row for row in found["cache"] if row["cached layers"] == 3]
    assert (small["rows"], large["rows"]) == (4, 8)
    assert large["MiB"] > small["MiB"]
    assert large["bytes per row"] > 3 * 7 * 32 * 2, "three layers of seven tokens or more, 32 wide, two bytes each"


def test_profile_attributes_the_whole_step(tmp_path):
    found = run("profile", tmp_path)
    for teacher, own in (("live", "teacher forward"), ("cached", "reading the cache")):
        rows = [row for row in found["rows"] if (row["teacher"], row["student"]) == (teacher, "fp32")]
        parts = {row["part"]: row["percent"] for row in rows}
        expected = {own, "student forward", "projections", "losses", "backward", "optimizer", "not attributed"}
        assert set(parts) == expected | {"whole step"}
        assert sum(parts[name] for name in expected) == pytest.approx(100)
        assert 0 <= parts["not attributed"] < 40


def test_the_most_expensive_operators_come_first():
    from benchmarks.profile import operator_rows

    a = torch.randn(400, 400)
    rows = operator_rows(lambda: (a @ a, a.sum()), 2)
    assert rows[0]["operator"] == "aten::mm"
    assert rows[0]["calls"] == 1
    assert rows[0]["ms"] >= rows[1]["ms"] > 0


def test_start_times_imports_in_fresh_processes(tmp_path, monkeypatch):
    from benchmarks import start

    monkeypatch.setattr(start, "STATEMENTS", {"python": "pass"})
    monkeypatch.setattr(start, "OURS", "import json")
    found = run("start", tmp_path, "--imports-only")
    assert column(found, "contender") == ["python", "import json"]
    assert found["rows"][0]["less python ms"] == 0


def test_the_first_step_is_noted_once(tmp_path):
    from benchmarks.start import FirstStep

    callback = FirstStep(str(tmp_path / "first"))
    callback.on_train_batch_start(None, None, None, 0)
    noted = callback.file.read_text()
    callback.on_train_batch_start(None, None, None, 1)
    assert callback.file.read_text() == noted
    assert float(noted) > 1.7e9


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """A teacher's folder and a folder with data."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("epoch")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "teacher")
    make_teacher("tiny").save_pretrained(folder / "teacher")
    (folder / "sst2").mkdir()
    texts = [("bad " if i % 2 else "a good film ") * (1 + i % 3) for i in range(16)]
    rows = [{"sentence": text, "label": i % 2} for i, text in enumerate(texts)]
    for split in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), folder / "sst2" / f"{split}.parquet")
    return folder


def test_epoch(tmp_path, fine_tuned):
    found = run("epoch", tmp_path, str(fine_tuned), str(fine_tuned / "teacher"))
    assert column(found, "steps measured") == [2, 4, 4, 4, 4, 4]
    assert all(row["of"] == 8 and row["extrapolated"] for row in found["rows"])
    base = found["rows"][0]["epoch s"]
    assert all(row["ratio to default"] == pytest.approx(row["epoch s"] / base) for row in found["rows"])
    cached = found["rows"][4]
    assert cached["first epoch s"] == pytest.approx(cached["epoch s"] + cached["build s"])


def test_textbrewer_gets_our_batches_in_our_order(tmp_path, fine_tuned):
    """Lightning tells our loader the epoch; for TextBrewer, which does not, the loader counts by itself."""
    tokenizer = BertTokenizerFast.from_pretrained(fine_tuned / "teacher")
    seen: list[Any] = []

    class Spy(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch["input_ids"].tolist())

    corpus = Corpus(fine_tuned, tokenizer, None, 2, 16, tmp_path)
    term = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
    module = kd.DistillationModule(make_teacher("tiny").train(), None, kd.Objective({"hard": term}))
    ours.quiet_trainer(max_epochs=2, callbacks=[Spy()]).fit(module, corpus.data.train_dataloader())
    loader = corpus.epochs()
    assert [batch["input_ids"].tolist() for _ in range(2) for batch in loader] == seen
    assert seen[:8] != seen[8:]


def test_a_race_on_the_same_batches(tmp_path, fine_tuned):
    typed = ("--to-accuracy", "1.01", "--epochs", "1", "--precisions", "32-true")
    found = run("epoch", tmp_path, str(fine_tuned), str(fine_tuned / "teacher"), *typed)
    assert column(found, "contender") == ["TextBrewer", "live, 32-true"]
    assert column(found, "steps") == [8, 8]
    assert column(found, "reached") == [False, False]
    assert all(0 <= row["best accuracy"] <= 1 and row["train s"] > 0 for row in found["rows"])


def test_images_are_measured_against_a_plain_loop(tmp_path):
    random, cells = np.random.default_rng(0), []
    for _ in range(24):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    (tmp_path / "cifar10").mkdir()
    for split in ("train", "test"):
        table = pa.table({"image": cells, "label": [row % 10 for row in range(24)]})
        parquet.write_table(table, tmp_path / "cifar10" / f"{split}.parquet")
    found = run("images", tmp_path, str(tmp_path))
    assert len(found["rows"]) == 7
    assert all(row["median ms"] > 0 for row in found["rows"])
    assert [row["at most"] for row in found["targets"]] == [1.05, 1.05, 1.08, 0.03]


def test_each_method_is_measured_beside_the_loop_by_hand(tmp_path, monkeypatch, capsys):
    started = carry_out_here(monkeypatch)
    found = run("zoo", tmp_path, "--methods", "alone,st,at", "--csv", str(tmp_path / "zoo.csv"))
    assert column(found, "method") == ["alone", "st", "at"]
    for row in found["rows"]:
        assert row["ours / by hand"] == pytest.approx(row["ours ms"] / row["by hand ms"])
        assert row["ours / plain"] == pytest.approx(row["ours ms"] / row["plain ms"])
        assert row["met"] == (row["ours / by hand"] <= 1.08)
        assert isinstance(row["peak MiB above plain"], float)
    assert [json.loads(command[4])["name"] for command in started] == [
        *("alone", "(plain, no teacher)", "st", "(plain)", "at", "memory of NST")
    ]
    assert len(found["functions"]) == 4
    assert [row["at most"] for row in found["targets"]] == [1.08, 1, 1, 1]
    lines = (tmp_path / "zoo.csv").read_text().splitlines()
    assert lines[0].startswith("method,ours ms,by hand ms,plain ms,ours / by hand,")
    assert [line.partition(",")[0] for line in lines[1:]] == ["alone", "st", "at"]
    printed = capsys.readouterr().out
    report.main([str(tmp_path / "zoo.json")])
    again = capsys.readouterr().out
    assert again.partition("\n\nMeasured")[0] in printed
    assert f"torch {torch.__version__.partition('+')[0]}" in again


def test_an_unknown_method_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("zoo", tmp_path, "--methods", "at,none")
    assert "there is no method none; there are afd, alone, at," in capsys.readouterr().err


def test_a_method_that_fails_does_not_keep_others_from_being_measured(monkeypatch):
    from benchmarks import zoo

    measured = zoo.times_of

    def fails_once(name: str, *given: Any) -> Any:
        if name == "st":
            raise ValueError("no such thing")
        return measured(name, *given)

    monkeypatch.setattr(zoo, "times_of", fails_once)
    st, alone = zoo.measure_methods(["st", "alone"], zoo.Shape(14, 8, 2), 1, None)
    assert st == {"method": "st", "error": "ValueError: no such thing"}
    assert alone["ours ms"] > 0
    assert [row["target"] for row in zoo.largest([st, alone])] == ["ours / by hand, the largest of 1 methods (alone)"]
    assert zoo.largest([st]) == []


def test_strategies(tmp_path):
    found = run("strategies", tmp_path)
    assert len(column(found, "contender")) == 2 * len(found["targets"]) == 12
    assert all(row["min ms"] > 0 for row in found["rows"])


def test_strategies_and_loops_by_hand_train_the_same_weights():
    from benchmarks import strategies

    trained = strategies.contenders("tiny", partial(torch.optim.SGD, lr=0.1))  # Adam makes much of tiny gradients
    for module in trained.values():
        loader = DataLoader(make_batches(3, 4, 6, "tiny"), batch_size=None)  # type: ignore[arg-type]
        Trainer(max_steps=3, **QUIET).fit(module, loader)
    for way in ("soft targets", "rows by entropy", "moving average"):
        ours, theirs = (trained[name].student.state_dict() for name in (way, way + strategies.BY_HAND))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    peers = trained["two peers"].students, trained["two peers" + strategies.BY_HAND]
    for ours, theirs in ((peers[0]["a"], peers[1].student), (peers[0]["b"], peers[1].peer)):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=1e-4)
