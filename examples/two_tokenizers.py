"""A student that cuts text into words, and a teacher that cuts it into pieces: hidden states are aligned word by word.

python examples/two_tokenizers.py
"""

from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything
from torchmetrics.classification import MulticlassAccuracy
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

import kd_lightning as kd

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def fit(module: kd.DistillationModule, data: kd.data.SyntheticSentiment, epochs: int) -> float:
    """Train on the CPU, leave nothing on the disk, and return the accuracy."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **quiet)
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/accuracy"])


def main(sentences: int = 4000, epochs: int = 8) -> dict[str, float]:
    """Train a RoBERTa on small pieces, then a BERT on words that learns from its hidden states."""
    seed_everything(0)
    words = kd.data.SyntheticSentiment(train_size=sentences, validation_size=200)
    pieces = kd.data.build_tokenizer(words.texts(), vocab_size=120)
    sizes = {"num_attention_heads": 2, "intermediate_size": 64, "pad_token_id": 0, **NO_DROPOUT}
    teacher = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=len(pieces), hidden_size=64, num_hidden_layers=4, **sizes)
    )
    student = BertForSequenceClassification(
        BertConfig(vocab_size=len(words.tokenizer), hidden_size=32, num_hidden_layers=2, **sizes)
    )
    adam, metrics = partial(torch.optim.AdamW, lr=1e-3), {"accuracy": MulticlassAccuracy(2, average="micro")}
    labels = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    in_pieces = kd.data.SyntheticSentiment(train_size=sentences, validation_size=200, tokenizer=pieces, max_length=128)
    found = {"teacher": fit(kd.DistillationModule(teacher, None, labels, adam, metrics=metrics), in_pieces, epochs)}

    words.teacher_tokenizer = pieces  # batches now have a part for each, and number which tokens are one word
    words.max_length = 128
    words.tokenizer.model_max_length = 128
    objective = kd.Objective({
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0)),
        "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
    })  # fmt: skip
    found["student"] = fit(kd.DistillationModule(student, teacher, objective, adam, metrics=metrics), words, epochs)
    text = words.texts("validation")[0]
    print(text, words.tokenizer.tokenize(text), pieces.tokenize(text), sep="\n")
    for name, accuracy in found.items():
        print(f"{name:8} {accuracy:.3f}")
    return found


if __name__ == "__main__":
    main()
