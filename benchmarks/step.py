"""One training step: TextBrewer, ours with a live and with a cached teacher, and the same student without a teacher.

python -m benchmarks.step [--batch 16] [--length 128] [--rounds 15]

BERT-base teaches T4-tiny by hidden MSE and MMD on five layers and by soft labels. Every contender does the same whole
step on the same batch: teacher, student, losses, backward, AdamW. They take turns. Before anything is timed, TextBrewer
and we must arrive at the same loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import arguments, contenders
from benchmarks.agreement import check_same_work
from benchmarks.contenders import CACHED, CACHED_LOGITS, LIVE, LIVE_MIXED, PLAIN, TEXTBREWER
from benchmarks.report import Row, Target, publish, time_rows, timed_target_rows
from benchmarks.setting import Setting
from benchmarks.timing import interleaved

TARGETS = (
    Target("live, bf16 teacher / TextBrewer", LIVE, TEXTBREWER, 0.72),
    Target("live, bf16 teacher, bf16-mixed / TextBrewer", LIVE_MIXED, TEXTBREWER, 0.60),
    Target("cached / TextBrewer", CACHED, TEXTBREWER, 0.33),
    Target("cached, logits only / plain", CACHED_LOGITS, PLAIN, 1.08),
    Target("cached, ten feature terms / plain", CACHED, PLAIN, 1.35),
)


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("step", __doc__, rounds=15)
    arguments.add_shape(parser, batch=16, length=128)
    parser.add_argument("--compile", action="store_true", help="compile our teacher and student")
    parser.add_argument("--contenders", nargs="+", choices=contenders.BUILDERS, default=[*contenders.BUILDERS])
    given = arguments.parse(parser, typed, teacher="tiny", batch=2, length=8, rounds=2)
    setting = Setting(given.teacher, given.batch, given.length, given.padding, 5, given.device, given.compile)
    own, other = check_same_work(setting)
    with contenders.scratch() as folder:
        steps = contenders.build(given.contenders, setting, folder)
        times = interleaved(steps, setting.make_batches(), given.rounds, device=given.device)
    note = f"Same work: our loss {own:.6g}, TextBrewer's {other:.6g}."
    tables = {
        "rows": time_rows(times, TextBrewer=TEXTBREWER, plain=PLAIN),
        "targets": timed_target_rows(TARGETS, times),
    }
    return publish("step", given, tables, note)


if __name__ == "__main__":
    main()
