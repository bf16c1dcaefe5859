"""Small questions with contexts, and tokenizers of several kinds, for the tests of question answering."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(40)]
SPACES = [" ", " ", " ", "  ", "\n", " \u3000"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

PAIRS = {
    "bert": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "left": "[CLS] $A [SEP] $B:1 [SEP]:1",
    "roberta": "[CLS] $A [SEP] [SEP] $B [SEP]",
    "xlnet": "$A [SEP] $B:1 [SEP]:1 [CLS]:2",
    "bare": "$A $B",
}
"""How tokenizers of each kind put a question and a context together."""


def reader(kind: str = "bert") -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows `WORDS`; `left` cuts and pads before the text, `bare` has no special tokens."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="$A", pair=PAIRS[kind], special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    names |= {} if kind == "bare" else {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    pads, cuts = ("left" if kind in kinds else "right" for kinds in (("left", "xlnet"), ("left",)))
    fields = ["input_ids", "attention_mask"] if kind in ("roberta", "bare") else ["input_ids", "token_type_ids"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=pads, truncation_side=cuts, model_input_names=fields, **names
    )


def asked(rows: int = 20, seed: int = 0, longest: int = 50) -> list[dict[str, Any]]:
    """Return questions of 0 to 9 words with contexts of up to `longest`, odd spaces, and one or two answers each."""
    draw = random.Random(seed)
    found = []
    for row in range(rows):
        words = draw.choices([*WORDS, "☂", "unknown"], k=draw.randint(3, longest))
        context = draw.choice(["", "\u200b", " "]) + "".join(word + draw.choice(SPACES) for word in words)
        spans = [sorted(draw.sample(range(len(context) + 1), 2)) for _ in range(1 + row % 2)]
        found.append(
            {
                "id": f"q{row}",
                "title": f"t{row % 5}",
                "context": context,
                "question": " ".join(draw.choices(WORDS, k=row % 10)),
                "answers": {"text": [context[a:b] for a, b in spans], "answer_start": [a for a, _ in spans]},
            }
        )
    return found


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a Parquet file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), file)


def library(root: Path, train: int = 20, validation: int = 11) -> Path:
    """Write the data set `reads` with a training and a validation split below a folder, and return the folder."""
    for seed, (split, rows) in enumerate((("train", train), ("validation", validation))):
        write(root / "reads" / f"{split}.parquet", asked(rows, seed))
    return root
