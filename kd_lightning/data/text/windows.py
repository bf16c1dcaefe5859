"""Questions and contexts longer than a model takes, cut into rows that overlap."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.questions import Questions
from kd_lightning.data.text.tokenizing import FIELDS
from kd_lightning.data.text.tokens import TokenRows
from kd_lightning.functional.hard_label import IGNORED

log = logging.getLogger(__name__)

CHUNK = 256  # questions per call of the tokenizer


@dataclass(frozen=True)
class Cut:
    """How questions and contexts become rows.

    Args:
        max_length: tokens of a row, special ones included.
        stride: tokens of the context that a row shares with the next.
        max_question_length: tokens of the question at most; longer ones are cut.

    Raises:
        DataError: if no room is left for the context, or none beside the stride, whatever the tokenizer.

    """

    max_length: int = 384
    stride: int = 128
    max_question_length: int = 64

    def __post_init__(self) -> None:
        self._check_room(0)

    def check(self, tokenizer: Any) -> None:
        """Check that there is room for the context, and that the tokenizer has offsets.

        Raises:
            DataError: if there is none, or the tokenizer is a slow one, without offsets.

        """
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"{type(tokenizer).__name__} has no offsets, by which answers become tokens; load "
                "the fast one, AutoTokenizer.from_pretrained(…, use_fast=True)."
            )
        self._check_room(tokenizer.num_special_tokens_to_add(pair=True))

    def _check_room(self, special: int) -> None:
        room = self.max_length - self.max_question_length - special
        if self.max_question_length < 1 or not 0 <= self.stride < room:
            raise DataError(
                f"Rows of max_length={self.max_length} tokens with questions of up to {self.max_question_length} "
                f"(max_question_length) leave {max(room, 0)} for the context, of which stride={self.stride} overlap: "
                "give a longer row, a shorter question or a stride below what is left."
            )


def windows(tokenizer: Any, questions: Questions, cut: Cut) -> TokenRows:
    """Tokenise questions with their contexts; a context that is too long becomes several rows.

    Args:
        tokenizer: a fast transformers tokenizer; on which side it cuts and pads does not matter.
        questions: what to tokenise.
        cut: how they become rows.

    Returns:
        Rows with a `logits_mask`, 1 where an answer may begin or end and at the first special token ([CLS]), which
        means "not here". `start_positions` and `end_positions` are of the answer's tokens where the row has them all,
        of [CLS] where it has not, and -100 where the place of the answer is unknown. Notes: `example`, the question's
        number, per row; `char_start` and `char_end`, where each token lies in the context, -1 for all that is not
        context.

    Raises:
        DataError: as `Cut.check`.

    Example:
        >>> from kd_lightning.data.text.tokenizing import build_tokenizer
        >>> tokenizer = build_tokenizer(["what ? a b c d e f"])
        >>> questions = Questions(["1"], ["what ?"], ["a b c d e f"], [["c d"]], np.array([[4, 7]]))
        >>> rows = windows(tokenizer, questions, Cut(max_length=9, stride=1, max_question_length=4))
        >>> [tokenizer.decode(rows[i]["input_ids"]) for i in range(len(rows))]
        ['[CLS] what? [SEP] a b c d [SEP]', '[CLS] what? [SEP] d e f [SEP]']
        >>> rows.values["start_positions"].tolist(), rows.values["end_positions"].tolist()
        ([6, 0], [7, 0])

    """
    cut.check(tokenizer)
    chunks = list(_chunks(tokenizer, questions, cut))
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    fields = {name: joined[name] for name in (*FIELDS, "logits_mask") if name in joined}
    offsets = np.concatenate([[0], np.cumsum(joined["lengths"])])
    values = {name: joined[name] for name in ("start_positions", "end_positions")}
    return TokenRows(fields, offsets, values, {name: joined[name] for name in ("example", "char_start", "char_end")})


def _chunks(tokenizer: Any, questions: Questions, cut: Cut) -> Iterator[dict[str, np.ndarray]]:
    short = _shortened(tokenizer, questions.questions, cut.max_question_length)
    special = tokenizer.cls_token_id
    for start in range(0, len(questions), CHUNK):
        some = slice(start, start + CHUNK)
        encoded = tokenizer(
            short[some],
            questions.contexts[some],
            truncation="only_second",
            max_length=cut.max_length,
            stride=cut.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        chunk = _flat(encoded, special, questions.contexts[some])
        yield chunk | _positions(chunk, questions.spans[some]) | {"example": chunk["example"] + np.int32(start)}


def _shortened(tokenizer: Any, questions: Sequence[str], limit: int) -> list[str]:
    """Cut questions to so many tokens, and log how many that were."""
    short, cut = list(questions), set[int]()
    while longer := _ends(tokenizer, short, limit):  # again, as a cut word may fall into more pieces
        cut |= set(longer)
        for row, end in longer.items():
            short[row] = short[row][:end]
    if cut:
        log.info("%d of %d questions are longer than %d tokens and are cut.", len(cut), len(short), limit)
    return short


def _ends(tokenizer: Any, questions: list[str], limit: int) -> dict[int, int]:
    """Return where to cut each question with more tokens: never inside of a character, and always something off."""
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
    ends = {}
    for row, found in enumerate(encoded["offset_mapping"]):
        if len(found) > limit:
            (begin, end), (following, _) = found[limit - 1 : limit + 1]
            ends[row] = min(end if following >= end else begin, len(questions[row]) - 1)
    return ends


def _flat(encoded: Any, special: int | None, contexts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the token fields of rows end to end, where each token lies, and where an answer may be."""
    rows = encoded.encodings
    flat: dict[str, Any] = {"example": np.array(encoded["overflow_to_sample_mapping"], dtype=np.int32)}
    flat["lengths"] = np.array([len(row) for row in rows])
    flat["input_ids"] = np.fromiter((i for row in rows for i in row.ids), dtype=FIELDS["input_ids"])
    if "token_type_ids" in encoded:
        flat["token_type_ids"] = np.fromiter((i for row in rows for i in row.type_ids), FIELDS["token_type_ids"])
    context = np.fromiter((i == 1 for row in rows for i in row.sequence_ids), dtype=bool)
    places = np.array([place for row in rows for place in row.offsets], dtype=np.int32)
    context &= places[:, 0] < places[:, 1]  # a tokenizer may add a token of no characters
    texts = np.repeat(flat["example"], flat["lengths"])
    places[~context] = 0  # those of questions may be behind the end of all contexts
    flat["char_start"], flat["char_end"] = np.where(context, _without_blanks(places, texts, contexts), np.int32(-1))
    flat["nowhere"] = _nowhere(flat["input_ids"], flat["lengths"], special)
    flat["logits_mask"] = context.astype(np.int8)
    flat["logits_mask"][flat["nowhere"] + _begins(flat["lengths"])] = 1
    return flat


def _without_blanks(places: np.ndarray, texts: np.ndarray, contexts: Sequence[str]) -> np.ndarray:
    """Return begins and ends of tokens without the blanks around a word, which some tokenizers count to it.

    Args:
        places: (tokens, 2), in the context of each.
        texts: (tokens,), which context that is.
        contexts: the texts.

    """
    lengths = np.array([len(text) for text in contexts])
    letters = np.array([not character.isspace() for text in contexts for character in text] + [True])
    numbers, first = np.arange(len(letters)), (np.cumsum(lengths) - lengths)[texts]
    following = np.minimum.accumulate(np.where(letters, numbers, len(letters))[::-1])[::-1]
    before = np.maximum.accumulate(np.where(letters, numbers, -1))
    begins, ends = following[first + places[:, 0]] - first, before[np.maximum(first + places[:, 1] - 1, 0)] + 1 - first
    word = (begins < ends) & (places[:, 0] < places[:, 1])  # else nothing but blanks
    return np.where(word, np.stack([begins, ends]), places.T).astype(np.int32)


def _begins(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _nowhere(ids: np.ndarray, lengths: np.ndarray, special: int | None) -> np.ndarray:
    """Return each row's place for "not here": its first [CLS], or its first token where the tokenizer has none."""
    begins, places = _begins(lengths), np.flatnonzero(ids == special)
    first = np.searchsorted(places, begins)
    there = np.append(places, len(ids))[first]
    return np.where(there < begins + lengths, there - begins, 0)


def _positions(flat: dict[str, np.ndarray], spans: np.ndarray) -> dict[str, np.ndarray]:
    """Find the answers' first and last tokens.

    These are looked for in all rows of a question, so an answer may begin or end with characters that are in no token.
    """
    rows, lengths = len(flat["lengths"]), flat["lengths"]
    row = np.repeat(np.arange(rows), lengths)
    place = np.arange(len(row)) - _begins(lengths)[row]
    question = flat["example"][row]
    begin, end = spans[question].T
    inside = (flat["char_end"] > begin) & (flat["char_start"] < end) & (flat["char_start"] >= 0) & (begin >= 0)
    first, last = _edges(flat["char_start"], flat["char_end"], inside, inside, question, len(spans))
    opens, closes = inside & (flat["char_start"] == first[question]), inside & (flat["char_end"] == last[question])
    starts, ends = _edges(place, place, opens, closes, row, rows)
    known, whole = last[flat["example"]] >= 0, (ends >= 0) & (starts <= ends)
    return {
        name: np.where(known, np.where(whole, found, flat["nowhere"]), IGNORED).astype(np.int64)
        for name, found in (("start_positions", starts), ("end_positions", ends))
    }


def _edges(
    lows: np.ndarray, highs: np.ndarray, opens: np.ndarray, closes: np.ndarray, group: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each group's least of `lows` where `opens`, and largest of `highs` where `closes`; −1 for no largest."""
    first, last = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    np.minimum.at(first, group[opens], lows[opens])
    np.maximum.at(last, group[closes], highs[closes])
    return first, last
