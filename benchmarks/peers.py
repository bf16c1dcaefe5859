"""What we are compared with: TextBrewer, as its documentation says to use it, and plain fine-tuning."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

from benchmarks.models import Batch, for_models
from benchmarks.setting import RATE, TEMPERATURE
from benchmarks.timing import Contender

SHOWN = {"output_hidden_states": True}
"""What TextBrewer's `train` hands on to both models."""


def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
    """Say where logits, loss, hidden states and mask are; `losses` are asked for where hard labels count."""
    return {"logits": outputs.logits, "hidden": outputs.hidden_states, "inputs_mask": batch["attention_mask"]}


def recipe(pairs: Sequence[tuple[int, int]], student_width: int, teacher_width: int) -> dict[str, Any]:
    """Return a `DistillationConfig` as a dict: soft labels, and `hidden_mse` and `nst` on each pair of layers."""
    matches: list[dict[str, Any]] = []
    for s, t in pairs:
        common = {"feature": "hidden", "weight": 1}
        projection = ["linear", student_width, teacher_width]
        matches.append({"layer_T": t, "layer_S": s, "loss": "hidden_mse", "proj": projection, **common})
        matches.append({"layer_T": [t, t], "layer_S": [s, s], "loss": "nst", **common})
    return {"temperature": TEMPERATURE, "intermediate_matches": matches}


def make_distiller(
    teacher: Any, student: Any, pairs: Sequence[tuple[int, int]], device: str = "cpu", kind: Any = GeneralDistiller
) -> Any:
    """Return a distiller that writes no logs; `kind` may be a subclass."""
    with tempfile.TemporaryDirectory() as folder:  # it must have one, and with this frequency writes nothing there
        train = TrainingConfig(device=device, output_dir=folder, ckpt_frequency=0)
    config = recipe(pairs, student.config.hidden_size, teacher.config.hidden_size)
    return kind(train, DistillationConfig.from_dict(config), teacher, student, adaptor, adaptor)


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of every contender."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)


def distiller_step(distiller: Any) -> Contender:
    """Return one step of TextBrewer's training loop, without its progress bar and its writing of losses."""
    optimizer, _, _ = distiller.initialize_training(make_optimizer(distiller.model_S), None, None, None)
    distiller.model_T.eval()
    distiller.model_S.train()

    def step(batch: Batch) -> None:
        loss, _ = distiller.train_on_batch(for_models(batch), SHOWN)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def fine_tuning_step(student: Any, device: str = "cpu", mixed: bool = False) -> Contender:
    """Return one step of training the student on labels alone, in plain PyTorch."""
    optimizer, autocast = make_optimizer(student), precision_context(device, mixed)

    def step(batch: Batch) -> None:
        inputs = {name: value.to(device) for name, value in for_models(batch).items()}
        with autocast():
            loss = student(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward_step(model: Any, device: str = "cpu") -> Contender:
    """Return a forward pass without gradient or hidden states: what a live teacher costs at least."""
    model.eval()

    def step(batch: Batch) -> None:
        with torch.no_grad():
            model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))

    return step


def precision_context(device: str, mixed: bool) -> Any:
    """Return what makes the context of a forward pass: Lightning's own of `bf16-mixed`, or of `32-true`."""
    return MixedPrecision("bf16-mixed", device.partition(":")[0]).forward_context if mixed else nullcontext
