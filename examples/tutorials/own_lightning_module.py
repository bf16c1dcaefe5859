# %% [markdown]
# # Distillation for a LightningModule that you already have
#
# A module with its own loss, optimizer and metrics is trained three times: as it is, with a callback that adds
# distillation, and rewritten as a `DistillationModule`. The data are points on two spirals; everything runs in less
# than a minute on a CPU.

# %%
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd

seed_everything(0, verbose=False)

# %% [markdown]
# ## What you have
#
# Two spirals, three of ten labels wrong in training and none in validation. A `LightningModule` that knows nothing of
# distillation.


# %%
def spirals(count: int, wrong: float) -> TensorDataset:
    """Return points on two spirals (count, 2), and which of the two each is on."""
    labels = torch.arange(count) % 2
    angle = 3 * math.pi * torch.rand(count).sqrt()
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], -1) / 8 * (1 - 2 * labels[:, None])
    flipped = torch.rand(count) < wrong
    return TensorDataset(points + 0.02 * torch.randn(count, 2), torch.where(flipped, 1 - labels, labels))


train = DataLoader(spirals(2000, wrong=0.3), 50, shuffle=True)
validation = DataLoader(spirals(1000, wrong=0.0), 500)


def network(width: int, depth: int = 2) -> nn.Sequential:
    """Return a network with `depth` hidden layers."""
    widths = [2] + [width] * depth
    body = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(width, 2))


class Classifier(LightningModule):
    """A module as anybody might have it."""

    def __init__(self, width: int, lr: float = 3e-3) -> None:
        super().__init__()
        self.net, self.lr = network(width), lr
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross entropy."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        x, y = batch
        self.accuracy(self.net(x), y)
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def fit(
    make: Callable[[], LightningModule], *callbacks: kd.DistillationCallback, epochs: int = 10
) -> tuple[Any, float]:
    """Train a module from the same random state as the others; return it and its accuracy on the validation points."""
    seed_everything(1, verbose=False)
    module = make()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks], enable_model_summary=False, **quiet)
    trainer.fit(module, train, validation)
    return module, float(trainer.callback_metrics["val/accuracy"])


scores: dict[str, float] = {}
teacher, scores["teacher"] = fit(partial(Classifier, width=128))
_, scores["alone"] = fit(partial(Classifier, width=12))

# %% [markdown]
# ## The callback
#
# The module stays as it is. Its own loss is multiplied by `task_weight` and the objective's terms are added;
# `student="net"` is the attribute that holds the model. Addresses are module paths: `"0"` and `"2"` are the outputs of
# the two hidden layers, before the ReLU. Their widths differ, so a projection is built; it joins the module's
# optimizer, and is in its checkpoints, which the module alone still loads.

# %%
objective = kd.Objective({
    "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
    "first": kd.Term(kd.Match("0", "0"), kd.losses.HiddenMSE(), weight=0.1, projection="linear"),
    "second": kd.Term(kd.Match("2", "2"), kd.losses.HiddenMSE(), weight=0.1, projection="linear"),
})  # fmt: skip
distillation = kd.DistillationCallback(teacher.net, objective, student="net", task_weight=0.1)
module, scores["callback"] = fit(partial(Classifier, width=12), distillation)
assert not any("projection" in name for name in dict(module.named_parameters())), "the module is as it was"

# %% [markdown]
# ## The same as a `DistillationModule`
#
# Where no module exists yet, this is shorter: two models, an objective, an optimizer and metrics. The hard-label term
# compares the student's logits with the labels of the batch.

# %%
labels = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel(), weight=0.1)


def rewritten() -> kd.DistillationModule:
    """Return a module for the same student, teacher and terms."""
    return kd.DistillationModule(
        network(12),
        teacher.net,
        kd.Objective({"hard": labels, **objective.terms}),
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        metrics={"accuracy": MulticlassAccuracy(2, average="micro")},
    )


module, scores["module"] = fit(rewritten)
for name, accuracy in scores.items():
    print(f"{name:>9} {accuracy:.3f}")

# %% [markdown]
# The teacher is bit-equal after all this: frozen, in no checkpoint and in no optimizer.

# %%
names = module.state_dict()
print(sorted({name.split(".")[0] for name in names}))
assert not any(name.startswith("teacher") for name in names)
