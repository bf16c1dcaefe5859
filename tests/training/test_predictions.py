from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd
from kd_lightning.data import SyntheticSentiment
from kd_lightning.metrics import BatchMetric
from kd_lightning.training.callbacks.predictions import WritePredictions

from ..toys import bert


class Chosen(BatchMetric):
    """Writes which class each row was given."""

    def __init__(self):
        super().__init__()
        self.add_state("found", [], dist_reduce_fx="cat")

    def update(self, features, batch):
        self.split = batch.get("split", "validation")
        self.found.append(torch.stack([batch["sample_id"], features["logits"].argmax(-1)], dim=1))

    def compute(self):
        self.rows = torch.cat(self.found) if isinstance(self.found, list) else self.found
        return {}

    def write(self, folder):
        path = folder / f"{self.split}.txt"
        path.write_text("\n".join(f"{row} {label}" for row, label in sorted(self.rows.tolist())))
        return path


def test_what_is_predicted_for_each_row_of_the_last_validation_is_written_once(tmp_path):
    data = SyntheticSentiment(train_size=20, validation_size=30, batch_size=4)
    student = bert(vocab_size=200, max_position_embeddings=64).eval()
    objective = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    labels = student.config.num_labels
    module = kd.DistillationModule(student, None, objective, metrics={"accuracy": MulticlassAccuracy(labels)})
    callback = WritePredictions({"": Chosen(), "none": None}, tmp_path / "deep" / "folder")
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(callbacks=[callback], **options)
    for _ in range(2):
        trainer.validate(module, datamodule=data, verbose=False)
    written = (tmp_path / "deep" / "folder" / "validation.txt").read_text().splitlines()
    rows = data.rows("validation")
    student.eval()
    with torch.no_grad():
        ids = [torch.tensor(rows[i]["input_ids"][None], dtype=torch.long) for i in range(30)]
        expected = [f"{i} {int(student(row).logits.argmax())}" for i, row in enumerate(ids)]
    assert sorted(written) == sorted(expected)
