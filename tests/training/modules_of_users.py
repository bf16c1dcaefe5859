"""LightningModules as users write them, without any distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..toys import bert, mlp


class Classifier(pl.LightningModule):
    """A plain net; returns its loss as a tensor."""

    def __init__(self, net: nn.Module | None = None, configure: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.model = net if net is not None else mlp(5)
        self.configure = configure

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        if self.configure is not None:
            return self.configure(self)
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Tuner(pl.LightningModule):
    """A Transformers model deep inside; returns a dict, and takes the labels out of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": bert(2, 16, dropout=0.1)})

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        labels = batch.pop("labels")
        output = self.parts["encoder"](**batch)
        return {"loss": F.cross_entropy(output.logits, labels), "rows": len(labels)}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Twice(Classifier):
    """Runs its model on the batch and on a noisy copy."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y) + F.mse_loss(self.model(x + 0.1), self.model(x))


class ByHand(Classifier):
    """Optimizes manually."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
