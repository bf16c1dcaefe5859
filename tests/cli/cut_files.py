"""Run by test_cut_files.py as a script: cuts files of a run and of the caches, and runs what wants them.

Reads `plan.json`: `typed`, what to type; `shares`, how much of a file stays, -1 is all but a byte; `situations`; and
`only`, patterns of names. Writes `results.json`: by case what became of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

from many_commands import outcome

from kd_lightning.training.callbacks import LastCheckpoint

HERE = Path.cwd()
RUN, CACHE = HERE / "run", Path(os.environ["KD_CACHE"])
SITUATIONS = ("finished", "interrupted", "new", "student")
MEASURED = ("seconds", "latency_ms", "config")


class Interrupted(BaseException):
    """As a kill after the first checkpoint of the student."""


def interrupt(callback: Any, trainer: Any, *given: Any, **more: Any) -> None:
    SAVE(callback, trainer, *given, **more)
    if "stages/student" in callback.dirpath:
        raise Interrupted


SAVE = LastCheckpoint._save


def result(folder: Path) -> dict[str, Any]:
    """What a run has made, without what is measured anew each time."""
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = {name: entry for name, entry in metrics.items() if name not in MEASURED}
    for entry in kept.values():
        for name in MEASURED:
            entry.pop(name, None)
    files = {path.name: path.read_bytes().hex() for path in sorted((folder / "student").iterdir())}
    logged = (folder / "stages" / "student" / "csv" / "version_0" / "metrics.csv").read_text()
    return {"metrics": kept, "student": files, "logged": logged}


def prepare(situation: str, typed: list[str]) -> None:
    """Run the command once, to the end or to its first checkpoint, and keep what it left."""
    for folder in (RUN, CACHE):
        shutil.rmtree(folder, ignore_errors=True)
    cut = situation == "interrupted"
    with mock.patch.object(LastCheckpoint, "_save", interrupt if cut else SAVE):
        done = outcome("run", [*typed, f"hydra.run.dir={RUN}"])
    assert done["code"] == int(cut), done
    for folder in (RUN, CACHE):
        shutil.copytree(folder, HERE / f"{situation}-{folder.name}")


def restore(situation: str) -> None:
    for folder in (RUN, CACHE, HERE / "again"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (RUN, CACHE):
        shutil.copytree(HERE / f"{situation}-{folder.name}", folder)


def files(situation: str) -> Iterator[Path]:
    """Yield the files that the command of a situation may want."""
    roots = {"new": [CACHE], "student": [RUN / "student"]}.get(situation, [RUN, CACHE])
    for root in roots:
        yield from (path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size)


def command(situation: str, typed: list[str]) -> tuple[list[str], Path]:
    """What is typed in a situation, and the folder of its run."""
    if situation in ("finished", "interrupted"):
        return [f"resume={RUN}"], RUN
    more = [f"teacher.path={RUN / 'student'}"] if situation == "student" else []
    return [*typed, *more, f"hydra.run.dir={HERE / 'again'}"], HERE / "again"


def main(plan: dict[str, Any]) -> dict[str, Any]:
    """Return what became of each case: `same`, `refused` with the error, or what is wrong."""
    found: dict[str, Any] = {}
    for situation in plan["situations"]:
        prepare(situation, plan["typed"])
        again, folder = command(situation, plan["typed"])
        restore(situation)
        assert (done := outcome("again", again))["code"] == 0, done
        whole = result(folder)
        restore(situation)
        wanted = [path for path in files(situation) if any(fnmatch(str(path), pattern) for pattern in plan["only"])]
        for path in wanted:
            for share in plan["shares"]:
                restore(situation)
                content = path.read_bytes()
                path.write_bytes(content[: int(share * len(content)) if share >= 0 else -1])
                case = f"{situation} {path.relative_to(HERE)} {share}"
                found[case] = judged(outcome("again", again), path, folder, whole)
                print(case, found[case], flush=True)
    return found


def judged(done: dict[str, Any], path: Path, folder: Path, whole: dict[str, Any]) -> str:
    if done["code"] == 0:
        made = result(folder)
        differs = [name for name in whole if made[name] != whole[name]]
        if differs == ["logged"] and f"The curves in {path.parent} are damaged" in done["told"]:
            return "warned"
        return f"WRONG: another {differs}" if differs else "same"
    named = path.name in done["error"] or str(path.parent) in done["error"]
    sentence = done["error"].startswith("error: ") and "\n" not in done["error"] and named
    return f"refused: {done['error']}" if sentence else f"WRONG: {done['error'][-3000:]}"


if __name__ == "__main__":
    made = main(json.loads(Path("plan.json").read_text()))
    Path("results.json").write_text(json.dumps(made, indent=1))
