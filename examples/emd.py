"""A layer map that is learned (BERT-EMD): every student layer learns from every teacher layer.

python examples/emd.py
"""

from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything
from transformers import BertConfig, BertForSequenceClassification

import kd_lightning as kd


def bert(layers: int, width: int, vocabulary: int) -> BertForSequenceClassification:
    """Return a small BERT with random weights."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 2 * width}
    return BertForSequenceClassification(BertConfig(vocab_size=vocabulary, num_attention_heads=2, **sizes))


def fit(module: kd.DistillationModule, data: kd.data.SyntheticSentiment, epochs: int) -> None:
    """Train on the CPU, and leave nothing on the disk."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **quiet).fit(module, datamodule=data)


def main(sentences: int = 2000, epochs: int = 2) -> torch.Tensor:
    """Train a teacher of six layers and a student of two, and print which layer learned from which."""
    seed_everything(0)
    data = kd.data.SyntheticSentiment(train_size=sentences, validation_size=200)
    adam = partial(torch.optim.AdamW, lr=1e-3)
    teacher, student = bert(6, 64, len(data.tokenizer)), bert(2, 32, len(data.tokenizer))
    labels = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
    fit(kd.DistillationModule(teacher, None, kd.Objective({"hard": labels}), adam), data, epochs)

    terms = {
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0)),
        "maps": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers="emd", projection="linear"),
    }
    module = kd.DistillationModule(student, teacher, kd.Objective(terms), adam)
    fit(module, data, epochs)  # kd.callbacks.LayerFlow() would draw the flow after each epoch

    flow = module.objective.named_terms()["maps"].loss.flow
    print("share of the flow, in percent")
    print("teacher layer " + "".join(f"{t + 1:>6}" for t in range(flow.shape[1])))
    for s, row in enumerate(flow):
        print(f"student layer {s + 1}" + "".join(f"{100 * x:6.1f}" for x in row.tolist()))
    return flow


if __name__ == "__main__":
    main()
