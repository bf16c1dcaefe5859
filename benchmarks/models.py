"""Teachers and students of known sizes with random weights, and batches of random tokens: all that speed depends on."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

import kd_lightning as kd

Batch: TypeAlias = dict[str, Tensor]

SIZES: dict[str, dict[str, int]] = {
    "bert-base": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "minilm-size": {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "tiny": {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
}
"""Teachers by name; each is a BERT with two labels."""

STUDENT_OF_TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def make_teacher(size: str = "bert-base", **changes: Any) -> Any:
    """Return a teacher with the same random weights at every call, in eval mode.

    Args:
        size: a key of `SIZES`.
        changes: fields of the configuration, such as `num_hidden_layers=24`.

    """
    torch.manual_seed(1)
    config = BertConfig(**SIZES[size] | {"num_labels": 2, "attn_implementation": "sdpa"} | changes)
    return BertForSequenceClassification(config).eval()


def make_student(size: str = "bert-base", seed: int = 0) -> Any:
    """Return T4-tiny (4 × 312) with random weights, the same for one seed; a smaller one for the teacher `tiny`."""
    torch.manual_seed(seed)
    like = BertConfig(**SIZES[size] | {"num_labels": 2})
    return kd.students.t4_tiny(like, **STUDENT_OF_TINY if size == "tiny" else {})


def with_eager_attention(model: Any) -> Any:
    """Return a copy of a model that computes attention step by step, as `output_attentions=True` wants it."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def make_batches(count: int, rows: int, length: int, size: str = "bert-base", padding: float = 0.1) -> list[Batch]:
    """Return batches of random tokens with labels and running `sample_id`.

    Args:
        count: number of batches.
        rows: rows per batch.
        length: tokens of a batch's longest row.
        size: whose vocabulary.
        padding: the shortest row is shorter than the longest by this share; the others lie between them.

    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = SIZES[size]["vocab_size"]
    lengths = torch.linspace(length, max(1.0, length * (1 - padding)), rows).round().long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    return [
        {
            "input_ids": torch.randint(1, vocabulary, (rows, length), generator=generator) * mask,
            "attention_mask": mask.clone(),
            "labels": torch.randint(0, 2, (rows,), generator=generator),
            "sample_id": torch.arange(rows) + number * rows,
        }
        for number in range(count)
    ]


def for_models(batch: Batch) -> Batch:
    """Return a batch without `sample_id`, which models called with all of it do not take."""
    return {name: value for name, value in batch.items() if name != "sample_id"}
