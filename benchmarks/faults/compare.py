"""What a run has left, and how that differs from what a run left that was never killed."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.faults.names import plain

Left: TypeAlias = dict[str, Any]

EXACT = re.compile(r"(run/|run/stages/\w+/)(student|predictions)/.*|kd_cache/teachers/[^/]+/[^/]+")
"""Files that must be the same to the byte."""

VARYING = ("last.before.ckpt", "last.ckpt", ".lock", "seconds.json", ".ranks.lock")
"""Files that a run may have or not: the checkpoint before the last, and locks, which the system frees."""

MOVED = ("latency_ms", "seconds", "config")
"""Entries of metrics.json that are measured anew each time, or are not results."""


def left(folder: Path) -> Left:
    """Return what a run has left in its folder, in its caches and among its temporary files."""
    files = sorted(path for part in ("run", "kd_cache", "tmpdir") for path in (folder / part).rglob("*"))
    metrics = folder / "run" / "metrics.json"
    return {
        "files": sorted({_name(path, folder) for path in files if path.is_file() and not _is_curve(path)}),
        "bytes": {_name(p, folder): _digest(p) for p in files if p.is_file() and _is_exact(p, folder)},
        "best": {_name(path, folder): _weights(path) for path in files if path.name == "best.ckpt"},
        "metrics": _without(json.loads(metrics.read_text()), MOVED) if metrics.is_file() else None,
        "curves": _curves(folder, (path for path in files if _is_curve(path))),
    }


def differences(wanted: Left, found: Left) -> list[str]:
    """Return what differs, a line each: its kind, a colon, and where."""
    return [
        *_files(wanted["files"], found["files"]),
        *(f"bytes: {name}" for name, digest in wanted["bytes"].items() if found["bytes"].get(name, digest) != digest),
        *(f"weights: {name}" for name, value in wanted["best"].items() if found["best"].get(name) != value),
        *(_metrics(wanted["metrics"], found["metrics"])),
        *(line for stage in wanted["curves"] for line in _rows(stage, wanted["curves"], found["curves"])),
    ]


# -- reading -----------------------------------------------------------------------------------------------------------


def _name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    return "/".join(map(plain, parts))


def _is_curve(path: Path) -> bool:
    return path.name == "metrics.csv"


def _is_exact(path: Path, folder: Path) -> bool:
    name = path.relative_to(folder).as_posix()
    return EXACT.fullmatch(name) is not None and not path.name.startswith(".")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _weights(path: Path) -> str:
    """Return the step of a checkpoint and a digest of its weights."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return f"unreadable: {type(error).__name__}"
    digest = hashlib.sha256()
    for name, tensor in content["state_dict"].items():
        digest.update(name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"step {content['global_step']} {digest.hexdigest()[:16]}"


def _without(node: Any, keys: Iterable[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, keys) for key, value in node.items() if key not in keys}
    return node


def _curves(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, list[str]]]:
    """Return all values by stage, step and column: one each, where nothing was written twice."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        stage = _name(file.parents[2], folder)
        points = found.setdefault(stage, {})
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for column, value in row.items():
                    if value and column not in (None, "step"):
                        points.setdefault(f"step {row.get('step')} {column}", []).append(value)
    return found


# -- comparing ---------------------------------------------------------------------------------------------------------


def _files(wanted: list[str], found: list[str]) -> list[str]:
    varies = {name for name in (*wanted, *found) if name.endswith(VARYING)}
    lost, more = (sorted(set(a) - set(b) - varies) for a, b in ((wanted, found), (found, wanted)))
    return [*(f"lost file: {name}" for name in lost), *(f"leftover: {name}" for name in more)]


def _metrics(wanted: Any, found: Any) -> list[str]:
    if wanted == found:
        return []
    if not isinstance(found, Mapping):
        return ["metrics: there are none"]
    return [
        f"metrics: {key} is {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value
    ]


def _rows(stage: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Compare a stage's curves: values that are lost, that are there twice, and that differ."""
    one, other = wanted[stage], found.get(stage, {})
    lost = [key for key in one if key not in other]
    twice = [key for key, values in other.items() if len(values) > len(one.get(key, [0]))]
    changed = [key for key, values in other.items() if set(values) != set(one.get(key, ())) and key not in lost]
    kinds = {"curve has a gap": lost, "curve has rows twice": twice, "curve has another value": changed}
    return [f"{kind}: {stage}, {keys[0]}, {len(keys)} values" for kind, keys in kinds.items() if keys]
