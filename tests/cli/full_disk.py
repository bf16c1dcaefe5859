"""Run by test_full_disk.py as a script: a limit to the size of files is reached in the midst of a write.

Reads `plan.json`: `typed`, what to type, and `cases`, names of `CASES`. Writes `results.json`: by case the error, or
what is wrong.
"""

from __future__ import annotations

import importlib
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cut_files import CACHE, HERE, RUN, result
from many_commands import outcome

PIPELINE = "kd_lightning.pipeline"
CASES: dict[str, tuple[str | None, int, str, str]] = {
    # when it begins: a function that is called, or at once; bytes; which parts of the cache are there; what is named
    "Hydra's files": (None, 300, "data teachers caches", "a file of the run"),
    "the configuration": (f"{PIPELINE}.run.save_config", 2000, "data teachers caches", "run/config.yaml"),
    "tokenised rows": (f"{PIPELINE}.run.start_stage", 6000, "", "cache/data/films-train"),
    "the teacher's checkpoint": (f"{PIPELINE}.run.start_stage", 500_000, "data", ".training/checkpoints/"),
    "the teacher": (f"{PIPELINE}.fine_tune.export", 1_000_000, "data", "cache/teachers/"),
    "where teachers are": (f"{PIPELINE}.fine_tune.write_json", 10, "data teachers", "seconds.json"),
    "a shard": (f"{PIPELINE}.cache.build_cache", 3000, "data teachers", "000-000000.safetensors"),
    "a manifest": ("kd_lightning.teachers.cache.build.finish", 100, "data teachers", "manifest.json"),
    "the last checkpoint": (f"{PIPELINE}.distil.fit", 200_000, "data teachers caches", "last.ckpt"),
    "curves": (f"{PIPELINE}.distil.fit", 100, "data teachers caches", "stages/student"),
    "predictions": (f"{PIPELINE}.distil.evaluate", 20, "data teachers caches", "predictions.tsv"),
    "the student": (f"{PIPELINE}.distil.export", 50_000, "data teachers caches", "run/student"),
    "a result": (f"{PIPELINE}.launch.write_json", 30, "data teachers caches", "result.json"),
    "metrics": (f"{PIPELINE}.run.write_json", 100, "data teachers caches", "metrics.json"),
}


def limit(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))


@contextmanager
def limited(begin: str | None, size: int) -> Iterator[None]:
    """Have the limit from now on, or from the first call of a function."""
    if begin is None:
        limit(size)
        yield
        return
    place, _, name = begin.rpartition(".")
    module = importlib.import_module(place)
    called = getattr(module, name)

    def call(*given: Any, **more: Any) -> Any:
        limit(size)
        return called(*given, **more)

    with mock.patch.object(module, name, call):
        yield


def run(case: str, typed: list[str], whole: dict[str, Any]) -> str:
    begin, size, kept, named = CASES[case]
    for folder in (RUN, CACHE):
        shutil.rmtree(folder, ignore_errors=True)
    for part in kept.split():
        shutil.copytree(HERE / "whole-cache" / part, CACHE / part)
    try:
        with limited(begin, size):
            done = outcome("run", typed)
    finally:
        limit(-1)
    error = done["error"]
    if done["code"] != 1 or not error.startswith("error: Cannot write ") or "\n" in error:
        return f"WRONG: {done['code']} {error[-3000:]}"
    if "(File too large)" not in error or named not in error:
        return f"WRONG: not named: {error}"
    if left := [str(path) for folder in (RUN, CACHE) for path in folder.rglob(".*.tmp")]:
        return f"WRONG: left {left}"
    again = outcome("again", [f"resume={RUN}"] if (RUN / "config.yaml").is_file() else typed)
    if again["code"] != 0:
        return f"WRONG: then {again['error'][-3000:]}"
    made = result(RUN)
    differs = [name for name in whole if made[name] != whole[name]]
    return f"WRONG: another {differs}" if differs else error


def main(plan: dict[str, Any]) -> dict[str, str]:
    typed = [*plan["typed"], f"hydra.run.dir={RUN}"]
    assert (done := outcome("run", typed))["code"] == 0, done
    whole = result(RUN)
    shutil.copytree(CACHE, HERE / "whole-cache")
    found = {}
    for case in plan["cases"] or CASES:
        found[case] = run(case, typed, whole)
        print(case, found[case], flush=True)
    return found


if __name__ == "__main__":
    made = main(json.loads(Path("plan.json").read_text()))
    Path("results.json").write_text(json.dumps(made, indent=1))
