"""All contenders by name. Each is built by itself, so that memory can be measured with nothing else around."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

import kd_lightning as kd
from benchmarks import ours, peers
from benchmarks.models import with_eager_attention
from benchmarks.setting import Setting
from benchmarks.timing import Contender

Builder: TypeAlias = Callable[[Setting, Path], Contender]
"""Takes a setting and a folder to keep things in."""

TEXTBREWER = "TextBrewer, SDPA"
PLAIN, PLAIN_MIXED = "plain fine-tuning", "plain fine-tuning, bf16-mixed"
LIVE, LIVE_MIXED = "live, bf16 teacher", "live, bf16 teacher, bf16-mixed"
CACHED, CACHED_MIXED = "cached", "cached, bf16-mixed"
CACHED_LOGITS = "cached, logits only"


def _textbrewer(setting: Setting, folder: Path, eager: bool = False) -> Contender:
    models = (setting.make_teacher(), setting.make_student())
    if eager:
        models = (with_eager_attention(models[0]), with_eager_attention(models[1]))
    return peers.distiller_step(peers.make_distiller(*models, setting.pairs, setting.device))


def _live(setting: Setting, folder: Path, precision: str = "bfloat16", mixed: bool = False) -> Contender:
    module = ours.make_module(setting, ours.live_teacher(setting, precision))
    return ours.distillation_step(module, setting.device, mixed)


def _cached(setting: Setting, folder: Path, mixed: bool = False, matched: int | None = None) -> Contender:
    setting = setting if matched is None else replace(setting, matched=matched)
    teacher = kd.CachedTeacher(cache_of(setting, folder))
    return ours.distillation_step(ours.make_module(setting, teacher), setting.device, mixed)


def cache_of(setting: Setting, folder: Path) -> Path:
    """Return the cache of a setting's batches, which is built if it is not in the folder."""
    path = folder / f"cache-{setting.matched}"
    if not path.exists():
        ours.build_cache(setting, setting.make_batches(), path, setting.teacher_addresses)
    return path


def _plain(setting: Setting, folder: Path, mixed: bool = False) -> Contender:
    return peers.fine_tuning_step(setting.make_student(), setting.device, mixed)


def _forward(setting: Setting, folder: Path, dtype: torch.dtype = torch.float32) -> Contender:
    return peers.forward_step(setting.make_teacher().to(dtype), setting.device)


BUILDERS: dict[str, Builder] = {
    TEXTBREWER: _textbrewer,
    "TextBrewer, eager": partial(_textbrewer, eager=True),
    LIVE: _live,
    "live, fp32 teacher": partial(_live, precision="float32"),
    LIVE_MIXED: partial(_live, mixed=True),
    CACHED: _cached,
    CACHED_MIXED: partial(_cached, mixed=True),
    CACHED_LOGITS: partial(_cached, matched=0),
    PLAIN: _plain,
    PLAIN_MIXED: partial(_plain, mixed=True),
    "teacher forward alone, fp32": _forward,
    "teacher forward alone, bf16": partial(_forward, dtype=torch.bfloat16),
}


def build(names: Iterable[str], setting: Setting, folder: Path) -> dict[str, Contender]:
    """Return the named contenders, ready to run."""
    return {name: BUILDERS[name](setting, folder) for name in names}


def prepare(names: Iterable[str], setting: Setting, folder: Path) -> None:
    """Build the caches that some contenders need, so that none builds one where it is measured."""
    for name in names:
        if name in (CACHED, CACHED_MIXED):
            cache_of(setting, folder)
        elif name == CACHED_LOGITS:
            cache_of(replace(setting, matched=0), folder)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kd-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
