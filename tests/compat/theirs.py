"""TextBrewer's own distillers, driven over batches that are at hand, and ours on the same weights."""

from __future__ import annotations

import contextlib
import copy
import io
from functools import partial
from pathlib import Path
from typing import Any

import textbrewer
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.compat.textbrewer import objective

from ..toys import bert, ready, trainer, words

RATE = 0.05
TOLERANCE: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}
SHOWN = {"output_hidden_states": True, "output_attentions": True}


def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
    """What TextBrewer's users write for a classifier."""
    return {
        "logits": outputs["logits"],
        "losses": outputs["loss"],
        "hidden": outputs["hidden_states"],
        "attention": outputs["attentions"],
        "inputs_mask": batch["attention_mask"],
        "labels": batch["labels"],
    }


def models(width: int = 16) -> tuple[nn.Module, nn.Module]:
    """Return a teacher of four layers and a student of two."""
    return bold(4, 16, seed=1), bold(2, width)


def bold(layers: int, width: int = 16, seed: int = 0, **options: Any) -> Any:
    """Return a random BERT whose weights are large enough that maps and logits are far from even."""
    return bert(layers, width, seed, initializer_range=0.4, **options)


def visible(model: nn.Module) -> Any:
    """Return a copy that returns all hidden states and maps, as TextBrewer needs it: with the slow attention kernel."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")  # type: ignore[operator]
    twin.config.update(SHOWN)  # type: ignore[operator, union-attr]
    return twin


def batches(count: int = 5, **options: Any) -> list[dict[str, Tensor]]:
    return [words(seed=i, **options) for i in range(count)]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE)


def train_theirs(distiller: Any, data: list[Any], num_epochs: int | None = 1, **options: Any) -> None:
    """Run TextBrewer's loop, without its progress bars."""
    optimizer = sgd(getattr(distiller, "model_S", None) or distiller.model)
    with contextlib.redirect_stderr(io.StringIO()), distiller:
        distiller.train(optimizer, data, num_epochs=num_epochs, **options)


def their_config(folder: Path, **options: Any) -> Any:
    return textbrewer.TrainingConfig(**{"device": "cpu", "output_dir": str(folder / "theirs")} | options)


def distilled_by_them(
    folder: Path,
    config: dict[str, Any],
    teacher: Any,
    student: nn.Module,
    data: list[Any],
    kind: type = textbrewer.GeneralDistiller,
    projections: dict[str, nn.Module] | None = None,
    train: dict[str, Any] | None = None,
    adaptors: Any = None,
    **training: Any,
) -> Any:
    """Train a copy of the student by TextBrewer; its projections start as the ones given."""
    teachers = [visible(one) for one in teacher] if isinstance(teacher, list) else visible(teacher)
    distiller = kind(
        their_config(folder, **training),
        textbrewer.DistillationConfig.from_dict(copy.deepcopy(config)),
        teachers,
        visible(student),
        *(adaptors or (adaptor, adaptor)),
    )
    started = iter((projections or {}).values())
    for own in getattr(distiller, "projs", []):
        if own is not None:
            own.load_state_dict(next(started).state_dict())
    train_theirs(distiller, data, **train or {})
    return distiller


def our_module(config: Any, teacher: Any, student: nn.Module, **options: Any) -> kd.DistillationModule:
    """Return a copy of the student under the migrated objective."""
    return kd.DistillationModule(
        copy.deepcopy(student),
        copy.deepcopy(teacher),
        objective(config, **options),
        optimizer=partial(torch.optim.SGD, lr=RATE),
    )


def distilled_by_us(folder: Path, module: kd.DistillationModule, data: list[Any], **options: Any) -> None:
    trainer(folder, **({"max_epochs": 1} | options)).fit(module, ready(data))


def assert_same_weights(ours: nn.Module, theirs: nn.Module, start: nn.Module | None = None) -> None:
    """Check all weights, and that training has moved them by far more than the tolerance."""
    own, other = ours.state_dict(), theirs.state_dict()
    assert own.keys() == other.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, other[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    if start is not None:
        assert moved(start, ours) > 1e-3


def moved(start: nn.Module, end: nn.Module) -> float:
    """Return how far training has moved the parameter that it moved most."""
    own = dict(start.named_parameters())
    return max(float((value - own[name]).detach().abs().max()) for name, value in end.named_parameters())


def apart(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference between two models' parameters."""
    return moved(one, other)
