"""Each file of a run and of the caches is cut: what wants it ends as before, or in a sentence that names the file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .. import processes

HERE = Path(__file__).parent
SOME = [
    "*/teachers.json", "*/stages/teacher/result.json", "*/last.ckpt", "*/films-train-*/field.input_ids.npy",
    "*/teachers/*/tokenizer.json", "*/caches/*/*.safetensors", "*/run/config.yaml",
]  # fmt: skip
SMALL = ["debug=fast", "cache=true", "baseline=false", "match=[hidden_mse]", "student.num_hidden_layers=1"]
SMALL += ["teacher=tiny_random", "teacher.architecture.num_hidden_layers=2", "data.batch_size=8"]


def carried_out(script: str, films_root: Path, environment: dict[str, str], folder: Path, plan: dict[str, Any]) -> Any:
    """Run a script of this folder on a plan, with caches of its own, and return what it found."""
    typed = ["data=sst2", "data.name=films", f"data.root={films_root}", *SMALL]
    (folder / "plan.json").write_text(json.dumps({"typed": typed, **plan}))
    own = environment | {"KD_CACHE": str(folder / "cache")}
    done = processes.run([str(HERE / script)], folder, own, timeout=3000)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_some_files_of_an_interrupted_run_cut_in_half(
    films_root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    plan = {"situations": ["interrupted"], "only": SOME, "shares": [0.5]}
    found = carried_out("cut_files.py", films_root, environment, tmp_path, plan)
    assert len(found) == len(SOME)
    outcomes = {case.rpartition("/")[2].partition(" ")[0]: what.partition(":")[0] for case, what in found.items()}
    refused = {"000-000000.safetensors", "config.yaml"}
    assert outcomes == {name: "refused" if name in refused else "same" for name in outcomes}, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("situation", ["finished", "interrupted", "new", "student"])
def test_every_file_cut_anywhere(films_root: Path, environment: dict[str, str], tmp_path: Path, situation: str) -> None:
    plan = {"situations": [situation], "only": ["*"], "shares": [0, 0.5, -1]}
    found = carried_out("cut_files.py", films_root, environment, tmp_path, plan)
    assert {case: what for case, what in found.items() if what.startswith("WRONG")} == {}
    assert {"same", "refused"} <= Counter(what.partition(":")[0] for what in found.values()).keys()
