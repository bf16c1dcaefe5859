"""A warm process that carries out drawn command lines: a line of JSON comes in, and one goes out, for each of them."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

STEPS = 2
MEMORY = 16 * 2**30  # bytes of address space: what asks for more is refused by the system, and not killed


class Steps:
    """The optimizer steps of the last fit in this process, each of which ends after the first epoch with two."""

    def __init__(self) -> None:
        import lightning.pytorch as pl

        self.made, self.finite = 0, True
        fit, steps = pl.Trainer.fit, self

        class Stop(pl.Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                trainer.should_stop |= trainer.global_step >= STEPS

        def patched(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
            trainer.callbacks.append(Stop())
            fit(trainer, model, *args, **kwargs)
            steps.made = trainer.global_step
            losses = [float(v) for name, v in trainer.callback_metrics.items() if name.startswith("train/")]
            trained = [p for p in model.parameters() if p.requires_grad]
            steps.finite = all(map(math.isfinite, losses)) and all(bool(p.isfinite().all()) for p in trained)

        pl.Trainer.fit = patched  # type: ignore[method-assign]


def outcome(job: dict[str, Any], steps: Steps) -> dict[str, Any]:
    """Carry out one command line; returns what became of it."""
    from kd_lightning.cli.configs import compose_config, known_keys
    from kd_lightning.cli.messages import one_sentence
    from kd_lightning.cli.settle import settings_of, settle
    from kd_lightning.pipeline.run import run as carry_out

    steps.made, steps.finite = 0, True
    run, begin = Path(f"run-{job['number']}"), time.perf_counter()
    found: dict[str, Any] = {"outcome": "failed", "said": ""}
    try:
        carry_out(settings_of(settle(compose_config(job["typed"]))), run.resolve())
        found = _finished(job, steps, run)
    except Exception as error:  # as the command sees it
        sentence = one_sentence(error, known_keys)
        found = {"outcome": "refused" if sentence else "failed", "said": sentence or traceback.format_exc()}
    except BaseException:
        found["said"] = traceback.format_exc()
    shutil.rmtree(run, ignore_errors=True)
    return found | {"steps": steps.made, "seconds": round(time.perf_counter() - begin, 2)}


def _finished(job: dict[str, Any], steps: Steps, run: Path) -> dict[str, Any]:
    """Judge a run that ended without an error."""
    if not steps.finite:
        return {"outcome": "failed", "said": "ended with a loss or weights that are not finite"}
    saved = OmegaConf.load(run / "config.yaml")
    for key, text in job["drawn"].items():
        typed = OverridesParser.create().parse_override(f"value={text}").value()
        if "." in key and not key.startswith("+") and not _same(OmegaConf.select(saved, key), typed):
            return {"outcome": "failed", "said": f"{key}={text} came out as {OmegaConf.select(saved, key)!r}"}
    return {"outcome": "accepted" if steps.made >= STEPS else "fewer steps", "said": ""}


def _same(saved: Any, typed: Any) -> bool:
    if isinstance(saved, float) and isinstance(typed, int | float):
        return saved == typed or (math.isnan(saved) and math.isnan(typed))
    return bool(saved == typed) or typed is None or str(saved) == str(typed)


def serve() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what runs print goes to the log
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    steps = Steps()
    for line in sys.stdin:
        answers.write(json.dumps(outcome(json.loads(line), steps)) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
