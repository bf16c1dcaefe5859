"""Texts → token rows, and what identifies a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.data.tokens import TokenRows

CHUNK = 4096  # texts per call of the tokenizer
T = TypeVar("T")
FIELDS = {"input_ids": np.int32, "token_type_ids": np.int8}


def check_tokenizer(tokenizer: Any, max_length: int) -> None:
    """Refuse what is no tokenizer, or takes fewer tokens than asked for.

    Raises:
        DataError: as said.

    """
    if tokenizer is None:
        raise DataError("A text data module needs a tokenizer: pass tokenizer=… or set its attribute `tokenizer`.")
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        raise DataError(
            f"tokenizer is to be a transformers tokenizer, not {type(tokenizer).__name__};"
            " make one with AutoTokenizer.from_pretrained(…)."
        )
    if max_length > tokenizer.model_max_length:
        raise DataError(
            f"max_length={max_length} is more than the {tokenizer.model_max_length} tokens this tokenizer says its"
            " model takes; lower it, or set tokenizer.model_max_length if the model takes more."
        )


def check_room(tokenizer: Any, max_length: int, pair: bool) -> None:
    """Refuse rows that have room for special tokens only.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: tokens per row, special ones included.
        pair: rows are pairs of texts.

    Raises:
        DataError: as said.

    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise DataError(
            f"max_length={max_length} leaves no room for a text between the {special} special tokens of a row; give "
            f"data.max_length={special + 1} or, better, far more."
        )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of all that decides which ids a text becomes: vocabulary, rules, special tokens, truncation side.

    Where it was loaded from, and how it was last called, do not count.
    """
    rules = _rules(tokenizer)
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    fields = list(tokenizer.model_input_names)
    return digest(type(tokenizer).__name__, rules, special, fields, tokenizer.truncation_side)


def _rules(tokenizer: Any) -> Any:
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        return {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.name != "tokenizer_config.json")
        return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def encode(tokenizer: Any, texts: Sequence[Sequence[str]], labels: np.ndarray, max_length: int) -> TokenRows:
    """Tokenise rows, cutting each to `max_length` tokens.

    Args:
        tokenizer: a transformers tokenizer.
        texts: one list of texts, or two of equal length for pairs.
        labels: (rows,).
        max_length: tokens per row, special ones included; of a pair the longer text is cut first.

    """
    chunks = [flat(tokenize(tokenizer, columns, max_length)) for columns in in_chunks(texts)]
    return joined(chunks, labels)


def batched(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield some items at a time, of any number of them.

    Example:
        >>> list(batched("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]

    """
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def in_chunks(texts: Sequence[Sequence[str]]) -> Iterator[list[list[str]]]:
    """Yield the columns of some thousand rows at a time."""
    for start in range(0, len(texts[0]), CHUNK):
        yield [list(column[start : start + CHUNK]) for column in texts]


def tokenize(tokenizer: Any, columns: list[list[str]], max_length: int) -> Any:
    """Call a tokenizer on texts or pairs, without padding."""
    return tokenizer(*columns, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)


def flat(encoded: Any) -> dict[str, np.ndarray]:
    """Return the token fields of rows end to end, and the rows' lengths."""
    fields = {
        name: np.fromiter((i for row in encoded[name] for i in row), dtype=kind)
        for name, kind in FIELDS.items()
        if name in encoded
    }
    return fields | {"lengths": np.array([len(row) for row in encoded["input_ids"]])}


def joined(chunks: Sequence[dict[str, np.ndarray]], labels: np.ndarray) -> TokenRows:
    """Return chunks of rows, as `flat` gives them, as one."""
    fields = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    offsets = np.concatenate([[0], np.cumsum(fields.pop("lengths"))])
    return TokenRows(fields, offsets, {"labels": labels})
