from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["good", "bad", "film", "plot", "very", "not"]


def make_tokenizer(words: list[str] = WORDS, **settings: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(SPECIAL + words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} | special | settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def write(file: Path, **columns: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with the set `films`: 40 training rows of 1 to 7 words, 11 validation rows."""
    for split, rows in (("train", 40), ("validation", 11)):
        texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(1 + i % 7)) for i in range(rows)]
        write(tmp_path / "data" / "films" / f"{split}.parquet", sentence=texts, label=[i % 2 for i in range(rows)])
    return tmp_path / "data"


@pytest.fixture(name="make_tokenizer")
def tokenizer_maker() -> Any:
    return make_tokenizer


@pytest.fixture
def write_rows() -> Any:
    return write
