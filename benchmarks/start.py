"""How long it takes to begin: imports, and from `python train.py` to the first training step.

python -m benchmarks.start [--rounds 5]

Imports are timed in fresh processes that take turns, and once less what Python itself needs to start. The command is
timed from the start of its process to the first training batch, when teacher and tokenised rows are in the cache
already: it is run once before. Its configuration is the quickstart with `debug=fast`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from benchmarks import arguments, contenders
from benchmarks.report import Row, medians, publish, time_rows
from benchmarks.timing import interleaved

REPOSITORY = Path(__file__).resolve().parents[1]

STATEMENTS = {"python": "pass", "import torch": "import torch", "import lightning": "import lightning"}
OURS = "import kd_lightning"
FIRST_STEP = "train.py to the first step"


class FirstStep(Callback):
    """Writes the time of the first training batch to a file: seconds since the epoch, of every process the same."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Write once."""
        if not self.file.exists():
            self.file.write_text(repr(time.time()))


def python(*typed: str, **environment: str) -> None:
    """Run Python in the repository, without a hub."""
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", **environment}
    subprocess.run([sys.executable, *typed], cwd=REPOSITORY, env=given, check=True, stdout=subprocess.DEVNULL)


def import_times(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of fresh processes that import one thing each."""
    statements = {**STATEMENTS, OURS: OURS}
    runs = {name: lambda _, code=code: python("-c", code) for name, code in statements.items()}
    return interleaved(runs, [None], rounds, warmup=1)


def seconds_to_first_step(folder: Path, number: int, overrides: Sequence[str]) -> float:
    """Run the command once and return the seconds from its start to its first training batch."""
    file = folder / f"first-step-{number}"
    callback = ["+callbacks.first._target_=benchmarks.start.FirstStep", f"+callbacks.first.file={file}"]
    start = time.time()
    run = f"hydra.run.dir={folder / f'run-{number}'}"
    python("train.py", "debug=fast", run, *callback, *overrides, KD_CACHE=str(folder / "cache"))
    return float(file.read_text()) - start


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("start", __doc__, rounds=5, device=False)
    parser.add_argument("overrides", nargs="*", help="of the configuration, such as experiment=sst2_t4tiny")
    parser.add_argument("--imports-only", action="store_true", help="leave the command out")
    given = arguments.parse(parser, typed, rounds=1)
    times = import_times(given.rounds)
    if not given.imports_only:
        with contenders.scratch() as folder:
            found = [seconds_to_first_step(folder, number, given.overrides) for number in range(given.rounds + 1)]
            times[FIRST_STEP] = found[1:]
    base = medians(times)
    rows = [row | {"less python ms": row["median ms"] - 1000 * base["python"]} for row in time_rows(times)]
    return publish("start", given, {"rows": rows})


if __name__ == "__main__":
    main()
