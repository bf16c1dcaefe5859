"""The callback on a LightningModule that is not ours and not edited: Lightning's own BoringModel.

python examples/callback.py
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch import nn
from torch.utils.data import DataLoader

import kd_lightning as kd

QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


def fit(module: LightningModule, *callbacks: kd.DistillationCallback) -> LightningModule:
    """Train a module as it is, its own optimizer and scheduler included."""
    trainer = Trainer(accelerator="cpu", max_epochs=3, limit_val_batches=0, callbacks=[*callbacks], **QUIET)
    trainer.fit(module, DataLoader(RandomDataset(32, 2048), batch_size=32))
    return module


def gap(one: nn.Module, other: nn.Module) -> float:
    """Return how far two models are apart on new data."""
    with torch.no_grad():
        x = torch.randn(500, 32)
        return float((one(x) - other(x)).square().mean())


def main() -> dict[str, float]:
    """Train BoringModel alone and with a teacher, and print how close each comes to the teacher."""
    seed_everything(0)
    teacher = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 2))
    objective = kd.Objective({"logits": kd.Term(kd.Match("logits", "logits"), kd.losses.LogitMSE())})
    # BoringModel has self.layer
    distillation = kd.DistillationCallback(teacher, objective, student="layer", task_weight=0.1)

    alone, distilled = fit(BoringModel()), fit(BoringModel(), distillation)
    gaps = {"alone": gap(alone.layer, teacher), "distilled": gap(distilled.layer, teacher)}
    for name, value in gaps.items():
        print(f"{name:>9}: squared distance to the teacher {value:.3f}")
    return gaps


if __name__ == "__main__":
    main()
