"""Your own loss, adapter, feature and schedule: a function or an argument each, and no fork.

python examples/custom.py
"""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

import kd_lightning as kd


class Reader(nn.Module):
    """A model that takes tokens and lengths, and returns scores and something else."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.top = nn.Linear(width, width)
        self.scores = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, 2), and the state they come from."""
        states, _ = self.rnn(self.words(tokens))
        last = states[torch.arange(len(tokens)), lengths - 1]
        return self.scores(torch.tanh(self.top(last))), last


# An adapter makes a model's arguments of a batch, and names the parts of its output.
ADAPTER = kd.Adapter(
    inputs=lambda batch: (batch["input_ids"], batch["attention_mask"].sum(-1)),
    outputs=lambda output: {"logits": output[0]},
)


def huber(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare two tensors: any function or module that gives a scalar is a loss."""
    return nn.functional.smooth_l1_loss(student, teacher.detach())


def late(progress: float) -> float:
    """Return the factor on a term's weight, for progress from 0 to 1: any such function is a schedule."""
    return min(1.0, 2.0 * progress)


def train(student: nn.Module, teacher: Any, terms: dict[str, kd.Term], data: Any) -> dict[str, float]:
    """Train for three epochs and return what was logged last."""
    adam = partial(torch.optim.Adam, lr=3e-3)
    module = kd.DistillationModule(student, teacher, kd.Objective(terms), adam, adapter=ADAPTER)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=3, enable_progress_bar=False, **quiet)
    trainer.fit(module, datamodule=data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def main() -> dict[str, float]:
    """Train a wide reader on labels and a narrow one under it, and print what was logged of each term."""
    seed_everything(0)
    data = kd.data.SyntheticSentiment(train_size=2000, validation_size=500)
    teacher, student = Reader(len(data.tokenizer), 64), Reader(len(data.tokenizer), 16)
    hard = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
    train(teacher, None, {"hard": hard}, data)
    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        # "top" is a module path: the output of that layer, in both models
        "top": kd.Term(kd.Match("top", "top"), huber, weight=2.0, schedule=late, projection="linear"),
    }
    logged = train(student, kd.LiveTeacher(teacher, adapter=ADAPTER), terms, data)
    for name, value in sorted(logged.items()):
        print(f"{name:<24}{value:8.4f}")
    return logged


if __name__ == "__main__":
    main()
