"""Tiny models, batches and trainers that many tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

VOCABULARY = 30


def bert(layers: int = 2, width: int = 16, seed: int = 0, labels: int = 3, dropout: float = 0.0, **more: Any) -> Any:
    """Return a random BERT for sequences of up to 16 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 16,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": labels,
    }
    return BertForSequenceClassification(BertConfig(**fields | more))


def words(rows: int = 4, length: int = 6, seed: int = 0, labels: int = 3) -> dict[str, Tensor]:
    """Return a batch of token rows; every second row ends in padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[1::2, length - 2 :] = 0
    return {
        "input_ids": torch.randint(1, VOCABULARY, (rows, length), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(0, labels, (rows,), generator=generator),
    }


def pairs(rows: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return `(x, y)` with x (rows, 4) and labels of 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator), torch.randint(0, 3, (rows,), generator=generator)


def mlp(width: int, seed: int = 0) -> nn.Sequential:
    """Return a net 4 → width → 3; its hidden feature is `1`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


def ready(batches: list[Any]) -> DataLoader[Any]:
    """Return a loader of finished batches."""
    return DataLoader(batches, batch_size=None)


def trainer(folder: Any, **options: Any) -> pl.Trainer:
    """Return a silent CPU trainer that writes below `folder` only."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**quiet | options)


def hooks_on(model: nn.Module) -> int:
    """Count every hook on a model and its parts."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Tell whether two states are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class OfAUser(pl.LightningModule):
    """A user's own module around a Transformers classifier, without any distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.model = bert(2)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Spy(pl.Callback):
    """Calls a function after every training batch."""

    def __init__(self, look: Callable[[pl.Trainer, Any], None]) -> None:
        self.look = look

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        self.look(trainer, module)
