"""An epoch of SST-2, end to end: ours by Lightning's Trainer, live and cached, and TextBrewer's `train`.

python -m benchmarks.epoch DATA TEACHER_DIR [--limit ROWS] [--steps 200]
python -m benchmarks.epoch DATA TEACHER_DIR --limit 20000 --to-accuracy 0.75

DATA holds `sst2/{train,validation}.parquet`; TEACHER_DIR is a fine-tuned teacher with its tokenizer. The student is
T4-tiny.

Batches are of 32 rows of similar length. "TextBrewer, its users' default" gets what most scripts give it: shuffled
rows, all padded to 128 tokens; it is always extrapolated from `--default-steps` steps. With `--steps` the others are
extrapolated, too, from batches evenly spread over the epoch's lengths; contenders then take turns, a stretch at a time.
Nobody validates, writes checkpoints or logs. What a Trainer spends before and after its loop is counted once.

With `--to-accuracy`, ours and TextBrewer train on the same batches until the validation accuracy is reached; validating
is not counted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks import arguments, contenders, trainings
from benchmarks.corpus import Corpus
from benchmarks.race import race
from benchmarks.report import Row, Target, publish, target_rows
from benchmarks.timing import turns
from benchmarks.trainings import Models, Stretch, Train

DEFAULT, GROUPED = "TextBrewer, its users' default", "TextBrewer, our batches"
LIVE, LIVE_MIXED = "live", "live, bf16-mixed"
CACHED, CACHED_MIXED = "cached", "cached, bf16-mixed"
NAMES = (DEFAULT, GROUPED, LIVE, LIVE_MIXED, CACHED, CACHED_MIXED)

TARGETS = (
    Target("live / default", LIVE, DEFAULT, 0.12),
    Target("live, bf16-mixed / default", LIVE_MIXED, DEFAULT, 0.12),
    Target("cached / default", CACHED, DEFAULT, 0.06),
    Target("cached, bf16-mixed / default", CACHED_MIXED, DEFAULT, 0.06),
)


def build(names: Sequence[str], models: Models, corpus: Corpus, device: str, cache: Path) -> dict[str, Train]:
    """Return the named contenders."""
    here = (models, corpus, device)
    makers = {
        DEFAULT: lambda: trainings.theirs_padded(*here),
        GROUPED: lambda: trainings.theirs_grouped(*here),
        LIVE: lambda: trainings.ours_live(*here, "32-true"),
        LIVE_MIXED: lambda: trainings.ours_live(*here, "bf16-mixed"),
        CACHED: lambda: trainings.ours_cached(*here, "32-true", cache),
        CACHED_MIXED: lambda: trainings.ours_cached(*here, "bf16-mixed", cache),
    }
    return {name: makers[name]() for name in names}


def in_turns(trains: Mapping[str, Train], plans: Mapping[str, list[Any]], stretches: int) -> dict[str, list[Stretch]]:
    """Let each contender train on its plan in stretches, one after the other, and return what each took."""
    found: dict[str, list[Stretch]] = {name: [] for name in trains}
    for number in range(stretches):
        for name in turns(list(trains), number):
            part = plans[name][number::stretches]
            if part:
                found[name].append(trains[name](part))
    return found


def epoch_row(name: str, taken: Sequence[Stretch], measured: int, steps: int, build_seconds: float | None) -> Row:
    """Return what an epoch takes by what some of its steps took."""
    around = statistics.median(stretch.around for stretch in taken)
    epoch = around + sum(stretch.loop for stretch in taken) * steps / measured
    cached = build_seconds is not None and name in (CACHED, CACHED_MIXED)
    return {
        "contender": name,
        "epoch s": epoch,
        "around the loop s": around,
        "build s": build_seconds if cached else None,
        "first epoch s": epoch + (build_seconds or 0.0) if cached else epoch,
        "steps measured": measured,
        "of": steps,
        "extrapolated": measured < steps,
    }


def measure(given: argparse.Namespace, models: Models, corpus: Corpus, folder: Path) -> list[Row]:
    """Return a row per contender."""
    plan = corpus.plan(given.steps)
    build_seconds = None
    if {CACHED, CACHED_MIXED} & set(given.contenders):
        build_seconds = trainings.build_cache(models, corpus, plan, given.device, folder / "cache")
        build_seconds *= corpus.steps / len(plan)
    plans = dict.fromkeys(given.contenders, plan) | {DEFAULT: corpus.plan()[: given.default_steps]}
    trains = build(given.contenders, models, corpus, given.device, folder / "cache")
    taken = in_turns(trains, plans, given.stretches if given.steps else 1)
    rows = [epoch_row(name, taken[name], len(plans[name]), corpus.steps, build_seconds) for name in trains]
    base = {row["contender"]: row["epoch s"] for row in rows}
    for row in rows:
        for short, other in (("default", DEFAULT), ("TextBrewer on our batches", GROUPED)):
            row[f"ratio to {short}"] = row["epoch s"] / base[other] if other in base else None
        row["first epoch's ratio to default"] = row["first epoch s"] / base[DEFAULT] if DEFAULT in base else None
    return rows


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    given = arguments.parse(_parser(), typed, batch=2, length=16, steps=4, default_steps=2, stretches=2, every=2)
    tokenizer: Any = AutoTokenizer.from_pretrained(given.teacher)
    models = trainings.load_models(given.teacher)
    with contenders.scratch() as folder:
        corpus = Corpus(given.data, tokenizer, given.limit, given.batch, given.length, folder)
        padding = ", ".join(f"{name} {share:.1%}" for name, share in corpus.padding().items())
        note = f"{len(corpus.rows):,} training rows, {corpus.steps:,} steps per epoch. Padding: {padding}."
        if given.to_accuracy is not None:
            found = race(models, corpus, given.to_accuracy, given.every, given.epochs, given.device, given.precisions)
            return publish("epoch", given, {"rows": found}, note)
        rows = measure(given, models, corpus, folder)
    seconds = {row["contender"]: row["epoch s"] for row in rows}
    return publish("epoch", given, {"rows": rows, "targets": target_rows(TARGETS, seconds)}, note)


def _parser() -> argparse.ArgumentParser:
    made = arguments.parser("epoch", __doc__, rounds=None)
    made.add_argument("data", type=Path, help="folder with sst2/{train,validation}.parquet")
    made.add_argument("teacher", type=Path, help="folder with a fine-tuned teacher and its tokenizer")
    made.add_argument("--limit", type=int, default=None, help="use only the first rows")
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--length", type=int, default=128, help="tokens of a row at most")
    made.add_argument("--steps", type=int, default=None, help="extrapolate from so many steps of each contender")
    made.add_argument("--default-steps", type=int, default=100, help="the same for TextBrewer's default (100)")
    made.add_argument("--stretches", type=int, default=4, help="turns, with --steps (4)")
    made.add_argument("--contenders", nargs="+", choices=NAMES, default=[*NAMES])
    made.add_argument("--to-accuracy", type=float, default=None, help="train until this validation accuracy")
    made.add_argument("--epochs", type=int, default=3, help="give up after so many, with --to-accuracy (3)")
    made.add_argument("--every", type=int, default=100, help="steps between validations (100)")
    made.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"], help="of ours, with --to-accuracy")
    return made


if __name__ == "__main__":
    main()
