"""Whether two contenders do the same work: on one batch, TextBrewer and we arrive at the same loss."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import ours, peers
from benchmarks.models import for_models
from benchmarks.setting import Setting

TOLERANCE = 1e-4


def both_losses(setting: Setting) -> tuple[float, float]:
    """Return our and TextBrewer's total loss on one batch, from equal weights, in float32 and without dropout."""
    teacher = ours.live_teacher(setting, "float32")
    module = ours.make_module(setting, teacher)
    distiller = peers.make_distiller(setting.make_teacher(), setting.make_student(), setting.pairs, setting.device)
    _same_projections(module.objective.projections(), distiller.projs)
    for model in (teacher.model, module.student, distiller.model_T, distiller.model_S):
        _make_sure(model.eval())
    batch = setting.make_batches(1)[0]
    with torch.no_grad():
        own = module.compare(ours.move(batch, setting.device)).total
        other, _ = distiller.train_on_batch(for_models(batch), peers.SHOWN)
    return float(own), float(other)


def check_same_work(setting: Setting) -> tuple[float, float]:
    """Return both losses.

    Raises:
        AssertionError: where they differ by more than one part in ten thousand.

    """
    own, other = both_losses(setting)
    if not abs(own - other) <= TOLERANCE * abs(other):
        raise AssertionError(f"Not the same work: our loss is {own:.6g}, TextBrewer's {other:.6g}, on the same batch.")
    return own, other


def _make_sure(model: Any) -> None:
    """Drive the logits apart: those of random weights are so even that no temperature would show in the loss."""
    with torch.no_grad():
        model.classifier.weight.mul_(100)


def _same_projections(mine: dict[str, Any], theirs: list[Any]) -> None:
    given = (projection for projection in theirs if projection is not None)
    for own, other in zip(mine.values(), given, strict=True):
        own.load_state_dict(other.state_dict())
