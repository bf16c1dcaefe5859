"""Whatever a later run reads is synced beside its place, renamed, and its folder synced, in this order."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .. import processes

HERE = Path(__file__).parent

OTHERS = {
    "*.lock": "empty: what counts is the system's lock on it",
    "*.log": "for people",
    "*/tensorboard/*": "TensorBoard's, for people; it appends",
    "*/stages/*/metrics.csv": "is appended to; synced before each checkpoint, after which a resumed run drops rows",
    "*/.hydra/config.yaml": "Hydra's, for people: a run has its own config.yaml",
    "*/.hydra/hydra.yaml": "Hydra's, for people",
    "*/multirun.yaml": "Hydra's, for people",
}
"""Files of a run that no later run reads as they are, and why."""


def is_durable(path: str, events: list[list[str]]) -> bool:
    """Tell whether a file, or a folder that it is in, was synced, moved to its place, and the place's folder synced."""
    for number in reversed(range(len(events))):
        kind, *places = events[number]
        if kind == "link" and path == places[1]:  # another name of the same content
            return is_durable(places[0], events[:number])
        if kind == "move" and (path == places[1] or path.startswith(f"{places[1]}/")):
            source = places[0] + path[len(places[1]) :]
            before, after = events[:number], events[number + 1 :]
            folder = ["sync", str(Path(places[1]).parent)]
            return folder in after and (["sync", source] in before or is_durable(source, before))
    return False


def test_every_file_that_a_later_run_reads_is_synced_and_renamed(
    on_films: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    typed = ["-m", *on_films, "cache=true", "baseline=false", "match=[hidden_mse]", "student.num_hidden_layers=1"]
    typed += ["teacher.architecture.num_hidden_layers=2", "hydra.sweep.dir=sweep", "seed=0"]
    own = environment | {"KD_CACHE": str(tmp_path / "cache")}
    done = processes.run([str(HERE / "recorded.py"), *typed], tmp_path, own, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["done"]["code"] == 0, found["done"]

    files = [path for root in ("sweep", "cache") for path in (tmp_path / root).rglob("*") if path.is_file()]
    read = [str(path) for path in files if not any(fnmatch(str(path), pattern) for pattern in OTHERS)]
    names = {Path(path).name for path in read}
    assert names >= {
        "config.yaml", "overrides.yaml", "metrics.json", "teachers.json", "result.json", "seconds.json", "best.ckpt",
        "last.ckpt", "last.before.ckpt", "model.safetensors", "config.json", "tokenizer.json", "checksums.json",
        "manifest.json", "plan.json", "000-000000.safetensors.json", "field.input_ids.npy", "recipe.json", "sweep.csv",
    }  # fmt: skip
    assert [path for path in read if not is_durable(path, found["events"])] == []

    logged, last = ([path for path in map(str, files) if path.endswith(name)] for name in ("metrics.csv", "last.ckpt"))
    stage = "stages/student"
    (rows,), (state,) = ([path for path in paths if stage in path] for paths in (logged, last))
    saved = next(i for i, event in enumerate(found["events"]) if event[0] == "move" and event[2] == state)
    assert ["sync", rows] in found["events"][:saved]


@pytest.mark.parametrize("missing", ["file", "move", "folder", "order"])
def test_the_rule_finds_what_is_missing(missing: str) -> None:
    events = [["sync", "/a/.x"], ["move", "/a/.x", "/a/x"], ["sync", "/a"]]
    assert is_durable("/a/x", events)
    kept = {"file": events[1:], "move": [events[0], events[2]], "folder": events[:2], "order": events[::-1]}
    assert not is_durable("/a/x", kept[missing])
