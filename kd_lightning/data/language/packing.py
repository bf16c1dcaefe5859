"""Documents → rows that are full of tokens, as language models are trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.encode import CHUNK, batched

AS_IT_IS = {"add_special_tokens": False, "truncation": False, "return_attention_mask": False, "verbose": False}


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a text, and what parts two documents within a row.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> Frame.of(build_tokenizer(["a film"], vocab_size=20))
        Frame(before=(2,), after=(3,), between=(3,))

    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """Look at what a tokenizer makes of a single word."""
        encoded = tokenizer("a", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        first = special.index(0) if 0 in special else len(ids)
        last = len(ids) - special[::-1].index(0) if 0 in special else len(ids)
        parting = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        return cls(tuple(ids[:first]), tuple(ids[last:]), () if parting is None else (parting,))


def packed(tokenizer: Any, documents: Iterable[list[str]], max_length: int) -> Iterator[np.ndarray]:
    """Yield rows of `max_length` tokens, the last one shorter, that hold all documents end to end: (rows, tokens).

    Every row is framed as the tokenizer frames a text ([CLS] … [SEP]). A document that does not fit goes on in the next
    row; where a new one begins within a row, the separating token comes first. Nothing is cut off.

    Args:
        tokenizer: a transformers tokenizer.
        documents: lines each.
        max_length: tokens per row, special ones included.

    Raises:
        DataError: rows too short to hold anything.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> tokenizer = build_tokenizer(["a film", "a plot"], vocab_size=40)
        >>> rows = [row for rows in packed(tokenizer, [["a film a film"], ["a plot"]], 7) for row in rows]
        >>> [tokenizer.decode(row) for row in rows]
        ['[CLS] a film a film [SEP] [SEP]', '[CLS] a plot [SEP]']

    """
    frame = Frame.of(tokenizer)
    width = max_length - len(frame.before) - len(frame.after)
    if width < 1:
        raise DataError(f"max_length={max_length} leaves no room for text between the tokenizer's special tokens.")
    rest = np.zeros(0, np.int32)
    for ids in _streams(tokenizer, documents, frame.between):
        stream = np.concatenate([rest, ids])
        whole = len(stream) // width * width
        if whole:
            yield _framed(stream[:whole].reshape(-1, width), frame)
        rest = stream[whole:]
    if len(rest) > len(frame.between):  # else nothing but the last document's end
        yield _framed(rest[None, : len(rest) - len(frame.between)], frame)


def _streams(tokenizer: Any, documents: Iterable[list[str]], between: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the tokens of some documents at a time, each followed by what parts them."""
    for some in batched(documents, CHUNK // 8):
        lines = [line for document in some for line in document]
        ids = iter(tokenizer(lines, **AS_IT_IS)["input_ids"])
        tokens = (chain(*(next(ids) for _ in document), between) for document in some)
        yield np.fromiter(chain.from_iterable(tokens), dtype=np.int32)


def _framed(rows: np.ndarray, frame: Frame) -> np.ndarray:
    around = [np.tile(np.array(ids, np.int32), (len(rows), 1)) for ids in (frame.before, frame.after)]
    return np.concatenate([around[0], rows, around[1]], axis=1)
