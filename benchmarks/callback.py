"""SST-2 with the callback: a LightningModule of somebody's own, as it is and with a guest.

python -m benchmarks.callback DATA TEACHER_DIR [--limit 20000] [--epochs 3]

DATA holds `sst2/{train,validation}.parquet`; TEACHER_DIR is a fine-tuned teacher, as `train.py` leaves in its cache.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

import kd_lightning as kd


class Reviews(LightningModule):
    """Knows nothing of distillation: four layers of BERT from random weights, its own loss, optimizer and schedule."""

    def __init__(self, vocabulary: int, rate: float = 2e-4) -> None:
        super().__init__()
        sizes = {"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200}
        self.encoder = BertForSequenceClassification(BertConfig(vocab_size=vocabulary, **sizes))
        self.accuracy = MulticlassAccuracy(2, average="micro")
        self.best = 0.0
        self.rate = rate

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the module's own loss."""
        return torch.nn.functional.cross_entropy(self._logits(batch), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count right answers."""
        self.accuracy.update(self._logits(batch), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Keep the best epoch's accuracy."""
        self.best = max(self.best, float(self.accuracy.compute()))
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        """Make an optimizer and a schedule that the projections must fit into."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, self.rate, steps), "interval": "step"}]


def guest(folder: str) -> kd.DistillationCallback:
    """Return the three lines a user adds."""
    teacher = kd.LiveTeacher(AutoModelForSequenceClassification.from_pretrained(folder), precision="bfloat16")
    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
    }
    return kd.DistillationCallback(teacher, kd.Objective(terms), student="encoder")


def main() -> None:
    """Train twice from the same weights and print the best epoch's accuracy of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("teacher")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=3)
    typed = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(typed.teacher)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    for name, callbacks in (("alone", []), ("with the callback", [guest(typed.teacher)])):
        seed_everything(0)
        data = kd.data.TextClassification(
            "sst2", "sentence", root=typed.data, tokenizer=tokenizer, limit=typed.limit, batch_size=32
        )
        module, start = Reviews(len(tokenizer)), time.perf_counter()
        trainer = Trainer(max_epochs=typed.epochs, precision="bf16-mixed", callbacks=callbacks, **quiet)
        trainer.fit(module, datamodule=data)
        print(f"{name:18} accuracy {module.best:.4f}, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
