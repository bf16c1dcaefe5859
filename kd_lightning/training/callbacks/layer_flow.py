"""Pictures of learned layer maps: which student layer learns from which teacher layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from torch import Tensor, nn

from kd_lightning.core.files import write_figure
from kd_lightning.losses import EMD
from kd_lightning.objective import Term

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TERM = re.compile(r"(?:tasks\.(\w+\.))?(?:\w+\.)*terms\.(\w+)")
"""Path of a term's submodule: below the objective of a module, or of one of its tasks."""


class LayerFlow(pl.Callback):
    """Draws, after each training epoch, the flow of every EMD term: teacher layers over student layers.

    The picture is `layer_flow_<term>.png` in the trainer's `default_root_dir`, and `layer_flow/<term>` in TensorBoard.
    It shows the last step of the epoch. Terms of a `DistillationModule`, of several tasks, and of a
    `DistillationCallback` are found; where there is none, nothing happens.

    Example:
        >>> trainer = pl.Trainer(callbacks=[LayerFlow()], logger=False, enable_checkpointing=False)

    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw on the first rank; all ranks have the same flows."""
        if not trainer.is_global_zero:
            return
        for name, term, loss in _flows(pl_module):
            figure = draw_flow(loss.flow, term.match.student_addresses, term.match.teacher_addresses)
            figure.suptitle(f"{name}, epoch {trainer.current_epoch + 1}", fontsize=10)
            write_figure(Path(trainer.default_root_dir) / f"layer_flow_{name}.png", figure)
            for logger in trainer.loggers:
                add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)
                if add_figure is not None:
                    add_figure(f"layer_flow/{name}", figure, trainer.global_step)


def draw_flow(flow: Tensor, student: Sequence[str], teacher: Sequence[str]) -> Figure:
    """Return a picture of a flow (S, T): a column per student layer, a row per teacher layer, in percent of the total.

    Example:
        >>> import torch
        >>> draw_flow(torch.eye(2) / 2, ["hidden.1", "hidden.2"], ["hidden.3", "hidden.6"]).axes[0].get_ylabel()
        'teacher layer'

    """
    from matplotlib.figure import Figure

    percent = 100 * flow.detach().float().cpu().T.numpy()
    rows, columns = percent.shape
    figure = Figure(figsize=(2.2 + 0.45 * columns, 1.4 + 0.3 * rows), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", origin="lower", aspect="auto", vmin=0)
    axes.set_xticks(range(columns), [address.rpartition(".")[2] for address in student])
    axes.set_yticks(range(rows), [address.rpartition(".")[2] for address in teacher])
    axes.set_title("percent of the flow", fontsize=8)
    axes.set_xlabel("student layer")
    axes.set_ylabel("teacher layer")
    axes.tick_params(length=0)
    for (row, column), value in [(cell, percent[cell]) for cell in zip(*percent.nonzero(), strict=True)]:
        shade = "white" if value > 0.6 * percent.max() else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=shade, fontsize=7)
    return figure


def _flows(module: nn.Module) -> Iterator[tuple[str, Term, EMD]]:
    for path, term in module.named_modules():
        found = _TERM.fullmatch(path)
        if found and isinstance(term, Term) and isinstance(term.loss, EMD):
            yield "".join(found.groups("")), term, term.loss
