"""What one attention map costs a teacher's forward pass: one tapped layer, against none and against eager everywhere.

python -m benchmarks.attention [--lengths 128 512] [--tokens 2048] [--rounds 9]

The map is of the middle layer. `output_attentions` is the usual way to have it: every layer computes attention step by
step and returns its map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import kd_lightning as kd
from benchmarks import arguments
from benchmarks.models import SIZES, make_batches, make_teacher, with_eager_attention
from benchmarks.report import Row, Target, publish, time_rows, timed_target_rows
from benchmarks.timing import Contender, interleaved

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NONE, ONE, ALL = "no map", "one layer's map, tapped", "output_attentions=True, eager"


def forward_contenders(model: Any, device: str) -> dict[str, Contender]:
    """Return forward passes of one teacher without a map, with one, and with all as Transformers gives them."""
    middle = model.config.num_hidden_layers // 2
    eager = with_eager_attention(model)

    def all_maps(batch: Any) -> None:
        with torch.no_grad():
            inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
            eager(**inputs, output_attentions=True)

    return {
        NONE: _tapped(model, ["logits"], device),
        ONE: _tapped(model, ["logits", f"attention.{middle}"], device),
        ALL: all_maps,
    }


def _tapped(model: Any, addresses: list[str], device: str) -> Contender:
    teacher = kd.LiveTeacher(model)
    teacher.ask(addresses)
    return lambda batch: teacher({name: value.to(device) for name, value in batch.items()})


def measure(size: str, precision: str, length: int, rows: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each way for one precision and one length."""
    model = make_teacher(size).to(device=device, dtype=DTYPES[precision])
    batches = make_batches(2, rows, length, size)
    return interleaved(forward_contenders(model, device), batches, rounds, device=device)


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("attention", __doc__, rounds=9)
    parser.add_argument("--teacher", choices=tuple(SIZES), default="bert-base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512], help="tokens per row (128 512)")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens per batch, padding included (2048)")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=[*DTYPES])
    given = arguments.parse(parser, typed, teacher="tiny", lengths=[8, 16], tokens=32, rounds=2)
    rows: list[Row] = []
    targets: list[Row] = []
    for precision in given.precisions:
        for length in given.lengths:
            here = {"precision": precision, "length": length, "rows": max(1, given.tokens // length)}
            times = measure(given.teacher, precision, length, here["rows"], given.rounds, given.device)
            rows += [here | row for row in time_rows(times, none=NONE, eager=ALL)]
            target = Target(f"one map / none, {precision}, {length} tokens", ONE, NONE, 1.10)
            targets += timed_target_rows([target], times)
    return publish("attention", given, {"rows": rows, "targets": targets})


if __name__ == "__main__":
    main()
