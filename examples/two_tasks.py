"""Two tasks for one student: one body with a head for each, from a teacher for each.

python examples/two_tasks.py
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


def fit(module: torch.nn.Module, data: object, epochs: int) -> dict[str, float]:
    """Train on the CPU, leave nothing on the disk, and return the metrics."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **quiet)
    trainer.fit(module, datamodule=data)
    return {name: float(x) for name, x in trainer.callback_metrics.items() if name.startswith("val/")}


def main(sentences: int = 4000, epochs: int = 8) -> dict[str, float]:
    """Train a teacher on each of two sets of sentences, then a student on both."""
    seed_everything(0)
    sets = {
        "large": kd.data.SyntheticSentiment(train_size=sentences, validation_size=200, seed=1),
        "small": kd.data.SyntheticSentiment(train_size=sentences // 4, validation_size=200, seed=2),
    }
    vocabulary = len(sets["large"].tokenizer)
    adam, metrics = partial(torch.optim.AdamW, lr=1e-3), {"accuracy": MulticlassAccuracy(2, average="micro")}
    labels = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0)),
        "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear"),
    }

    body = bert(2, 32, vocabulary)
    students = {"large": body, "small": kd.students.share_body(body, bert(2, 32, vocabulary))}
    tasks = {}
    for name, data in sets.items():
        teacher = bert(4, 64, vocabulary)
        fit(kd.DistillationModule(teacher, None, labels, adam, metrics=metrics), data, epochs)
        tasks[name] = kd.DistillationModule(students[name], teacher, kd.Objective(terms), metrics=metrics)
    found = fit(kd.MultiTaskModule(tasks, optimizer=adam), kd.data.MultiTask(sets, tau=0.5), epochs)
    for name, value in found.items():
        print(f"{name:20} {value:.3f}")
    return found


if __name__ == "__main__":
    main()
