"""Two teachers for one student: their predictions are combined, and the layers of each are matched.

python examples/two_teachers.py
"""

from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything
from torchmetrics.classification import MulticlassAccuracy
from transformers import BertConfig, BertForSequenceClassification

import kd_lightning as kd

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert(layers: int, width: int, vocabulary: int) -> BertForSequenceClassification:
    """Return a small BERT with random weights."""
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        **NO_DROPOUT,
    }
    return BertForSequenceClassification(BertConfig(vocab_size=vocabulary, num_attention_heads=2, **sizes))


def fit(module: kd.DistillationModule, data: kd.data.SyntheticSentiment, epochs: int) -> float:
    """Train on the CPU, leave nothing on the disk, and return the accuracy."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **quiet)
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/accuracy"])


def main(sentences: int = 4000, epochs: int = 8) -> dict[str, float]:
    """Train a deep and a wide teacher, then a student that learns from both."""
    seed_everything(0)
    data = kd.data.SyntheticSentiment(train_size=sentences, validation_size=200)
    adam, metrics = partial(torch.optim.AdamW, lr=1e-3), {"accuracy": MulticlassAccuracy(2, average="micro")}
    labels = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    teachers = {"deep": bert(4, 48, len(data.tokenizer)), "wide": bert(2, 96, len(data.tokenizer))}
    found = {
        name: fit(kd.DistillationModule(teacher, None, labels, adam, metrics=metrics), data, epochs)
        for name, teacher in teachers.items()
    }

    both = kd.EnsembleTeacher(teachers, weights="confidence", combine="probabilities", temperature=2.0)
    objective = kd.Objective({
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
        "deep": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), teacher_feature="deep/hidden", projection="linear"),
        "wide": kd.Term(kd.Match("hidden.2", "wide/hidden.2"), kd.losses.HiddenCosine(), projection="linear"),
    })  # fmt: skip
    student = bert(2, 32, len(data.tokenizer))
    found["student"] = fit(kd.DistillationModule(student, both, objective, adam, metrics=metrics), data, epochs)
    for name, accuracy in found.items():
        print(f"{name:8} {accuracy:.3f}")
    return found


if __name__ == "__main__":
    main()
