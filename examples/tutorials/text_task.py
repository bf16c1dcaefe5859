# %% [markdown]
# # A text task of your own: from a file to a small student
#
# A file of labelled texts, a teacher that is trained on it, and a smaller student that learns from the labels alone or
# from the teacher too. Everything is tiny and made up, and runs offline in less than a minute on a CPU. Replace the
# file by yours and the teacher by a pretrained model, and it is a real task.

# %%
import csv
import random
import tempfile
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from torchmetrics.classification import MulticlassAccuracy
from transformers import BertConfig, BertForSequenceClassification

import kd_lightning as kd

seed_everything(0, verbose=False)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The data
#
# Reviews that are good or bad; "not" turns the meaning of the next word around, and one label in ten is wrong. Two
# columns, `text` and `label`, with the labels by their names.

# %%
GOOD, BAD = ["bright", "moving", "funny", "clever", "warm"], ["dull", "loud", "slow", "flat", "cold"]
THINGS = ["plot", "cast", "scene", "music", "ending", "script"]


def review(draw: random.Random) -> tuple[str, str]:
    """Return a made-up review and its label."""
    good = draw.random() < 0.5
    clauses = []
    for thing in draw.sample(THINGS, 3):
        negated = draw.random() < 0.4
        word = draw.choice(GOOD if good != negated else BAD)
        clauses.append(f"the {thing} is {'not ' if negated else ''}{word}")
    return " and ".join(clauses), "good" if good != (draw.random() < 0.1) else "bad"


def write(name: str, rows: int, seed: int) -> Path:
    """Write a CSV file of reviews."""
    draw = random.Random(seed)
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *(review(draw) for _ in range(rows))])
    return folder / name


train, validation = write("train.csv", 2000, seed=1), write("validation.csv", 400, seed=2)
print(train.read_text().splitlines()[1])

# %% [markdown]
# A data module reads it. On the command line this is `data=csv data.path=train.csv data.validation=validation.csv`. The
# tokenizer is made from the training text here; for a pretrained teacher it is the teacher's own.

# %%
data = kd.data.TextClassification(
    "reviews",
    path=train,
    validation=validation,
    text="text",
    label="label",
    labels=["bad", "good"],
    max_length=24,
    batch_size=50,
)
data.tokenizer = data.load_processor("train")
data.setup()
print(data.sizes, "rows;", len(data.tokenizer), "word pieces")

# %% [markdown]
# ## The teacher
#
# Any `nn.Module` can be one. `DistillationModule` without a teacher is plain training on an objective; here its only
# term compares the model's logits with the batch's labels.


# %%
def bert(layers: int, width: int) -> BertForSequenceClassification:
    """Return a BERT with random weights."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 2 * width}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(
        BertConfig(vocab_size=len(data.tokenizer), num_attention_heads=2, **sizes, **dropout)
    )


def fit(student: torch.nn.Module, teacher: torch.nn.Module | None, objective: kd.Objective, epochs: int) -> float:
    """Train, and return the accuracy on the validation split."""
    module = kd.DistillationModule(
        student,
        teacher,
        objective,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        metrics={"accuracy": MulticlassAccuracy(2, average="micro")},
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/accuracy"])


labels = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
teacher = bert(layers=2, width=64)
scores = {"teacher": fit(teacher, None, kd.Objective({"hard": labels}), epochs=4)}

# %% [markdown]
# ## The student, alone and distilled
#
# Two terms are added for distillation: soft targets on the logits, and the hidden states of matching layers through a
# linear projection, because the widths differ. `MatchScheme` finds the layers by itself.

# %%
terms = {
    "hard": labels,
    "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
    "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="linear", weight=0.1),
}
student = bert(layers=1, width=16)
scores["alone"] = fit(bert(layers=1, width=16), None, kd.Objective({"hard": labels}), epochs=3)
scores["distilled"] = fit(student, teacher, kd.Objective(terms), epochs=3)
for name, accuracy in scores.items():
    print(f"{name:>10} {accuracy:.3f}")
print(kd.inspection.compare({"teacher": teacher, "student": student}, next(iter(data.val_dataloader()))))

# %% [markdown]
# One seed on 400 rows proves little: the standard error of these accuracies is about 0.015. Compare several seeds
# before you believe a difference.
#
# ## Take it away
#
# The student is a plain Transformers model with its tokenizer; nothing of the training is left in it.

# %%
exported = kd.export(student, folder / "student", processor=data.tokenizer)
model = kd.load(exported)
inputs = data.tokenizer("the plot is not dull and the cast is bright", return_tensors="pt")
with torch.no_grad():
    answer = data.classes[int(model(**inputs).logits.argmax())]
print(answer, sorted(path.name for path in exported.iterdir()))
