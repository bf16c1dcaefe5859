"""Texts → rows of two tokenizers, with numbers that say which of their tokens belong to the same stretch of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.tokenizing import flat, in_chunks, joined, tokenize
from kd_lightning.data.text.tokens import DualTokenizedRows

Piece: TypeAlias = tuple[int, int, int] | None
"""(text of the pair, first character, end) of a token; None for a special token or one without characters."""

NOTHING, FIRST = -1, 0
FAR = 1 << 32  # between the numbers of a pair's two texts

CHINESE = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CHINESE}]|[^\W{CHINESE}]+|[^\w\s]")


def dual_tokenized_rows(
    student: Any, teacher: Any, texts: Sequence[Sequence[str]], labels: np.ndarray, max_length: int
) -> DualTokenizedRows:
    """Tokenise rows twice. Each part has `word_ids`: tokens of the two that cover the same word have the same number.

    Words are runs of letters and digits, single Chinese characters and single other signs; where a token of either
    tokenizer reaches over several words, these count as one. Numbers run from 0 without gaps over the words that both
    have after truncation, a leading special token such as [CLS] being the first. Other tokens have −1.

    Args:
        student: the student's tokenizer, a fast one.
        teacher: the teacher's, likewise.
        texts: one list of texts, or two of equal length for pairs.
        labels: (rows,).
        max_length: tokens per row at most, of either.

    Raises:
        DataError: for a tokenizer that does not say where its tokens lie in the text.

    Example:
        >>> from kd_lightning.data.text.synthetic import word_tokenizer
        >>> tokenizer = word_tokenizer()
        >>> rows = dual_tokenized_rows(tokenizer, tokenizer, [["the plot was good"]], np.array([1]), 16)
        >>> rows[0]["student"]["word_ids"].tolist()
        [0, 1, 2, 3, 4, -1]

    """
    for role, tokenizer in (("student", student), ("teacher", teacher)):
        if not tokenizer.is_fast:
            raise DataError(
                f"The {role}'s {type(tokenizer).__name__} does not say where its tokens lie in the text, which two "
                "tokenizers need to be aligned. Use a fast tokenizer (AutoTokenizer gives one where there is one)."
            )
    if not len(labels):
        raise DataError("There are no rows to tokenise.")
    parts: tuple[list[dict[str, np.ndarray]], ...] = ([], [])
    for columns in in_chunks(texts):
        encoded = [tokenize(tokenizer, columns, max_length) for tokenizer in (student, teacher)]
        for part, one, ids in zip(parts, encoded, _words(columns, encoded), strict=True):
            part.append(flat(one) | {"word_ids": np.concatenate(ids).astype(np.int16)})
    return DualTokenizedRows(*(joined(part, labels) for part in parts))


def _words(columns: list[list[str]], encoded: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the word ids of each row, for both tokenizers."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row, texts in enumerate(zip(*columns, strict=True)):
        for ids, part in zip(align(texts, *(list(_pieces(one[row], texts)) for one in encoded)), found, strict=True):
            part.append(ids)
    return found


def _pieces(encoding: Any, texts: Sequence[str]) -> Iterator[Piece]:
    """Yield where each token lies, without the spaces around it."""
    for text, (start, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True):
        span = texts[text][start:end] if text is not None else ""
        left, right = len(span) - len(span.lstrip()), len(span) - len(span.rstrip())
        yield (text, start + left, end - right) if span.strip() else None


def align(texts: Sequence[str], student: list[Piece], teacher: list[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Return one number per token of each side; tokens of one word have one number, tokens of no common word −1.

    Example:
        >>> [ids.tolist() for ids in align(["unseen film"], [None, (0, 0, 2), (0, 2, 6), (0, 7, 11)], [(0, 0, 11)])]
        [[-1, 0, 0, 0], [0]]

    """
    starts = [_starts(text, number, [*student, *teacher]) for number, text in enumerate(texts)]
    own, other = (np.array([_key(piece, i, starts) for i, piece in enumerate(side)]) for side in (student, teacher))
    common = np.intersect1d(own, other)
    common = common[common != NOTHING]
    return _numbered(own, common), _numbered(other, common)


def _numbered(keys: np.ndarray, common: np.ndarray) -> np.ndarray:
    return np.where(np.isin(keys, common), np.searchsorted(common, keys), NOTHING)


def _starts(text: str, number: int, pieces: list[Piece]) -> np.ndarray:
    """Return where the words of a text begin, without those that begin inside of a token."""
    starts = np.array([match.start() for match in _WORD.finditer(text)], dtype=np.int64)
    spans = np.array([piece[1:] for piece in pieces if piece is not None and piece[0] == number]).reshape(-1, 2)
    inside = (spans[:, :1] < starts) & (starts < spans[:, 1:])
    return starts[~inside.any(0)]


def _key(piece: Piece, place: int, starts: list[np.ndarray]) -> int:
    if piece is None:
        return FIRST if place == 0 else NOTHING
    text, first, _ = piece
    return 1 + text * FAR + int(np.searchsorted(starts[text], first, side="right"))
