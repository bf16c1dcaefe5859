"""Tagged words → token rows: a word's first piece has its tag, and long sentences become several rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.alignment import CHINESE
from kd_lightning.data.encode import CHUNK, FIELDS
from kd_lightning.data.labelling.spans import owners, spans
from kd_lightning.data.labelling.tags import Sentences
from kd_lightning.data.tokens import TokenRows
from kd_lightning.functional.hard_label import IGNORED

_LETTER = rf"[^\W{CHINESE}]"
_WORD = re.compile(rf"[{CHINESE}]|{_LETTER}(?:[^\s{CHINESE}]*{_LETTER})?|[^\w\s]")
KINDS = FIELDS | {"labels": np.int16, "logits_mask": np.int8}


def check_word_tokenizer(tokenizer: Any) -> None:
    """Refuse tokenizers that cannot say which word a piece belongs to, or would glue words together.

    Raises:
        DataError: as said.

    """
    if not tokenizer.is_fast:
        raise DataError(
            f"Tags need a fast tokenizer, which says what word a piece is of; {type(tokenizer).__name__} is slow."
        )
    if "add_prefix_space=False" in str(tokenizer.backend_tokenizer.pre_tokenizer):
        raise DataError(
            "This tokenizer takes words for parts of one word; load it with"
            " AutoTokenizer.from_pretrained(…, add_prefix_space=True)."
        )


def words_of(text: str) -> list[str]:
    """Cut a text that comes without word boundaries, much as tagged sentences are cut.

    Chinese characters are words of their own, other words are what is between blanks, without the signs around it,
    which are words too.

    Example:
        >>> words_of("U.S. shares fell 1.5%, he didn't say.")
        ['U.S', '.', 'shares', 'fell', '1.5', '%', ',', 'he', "didn't", 'say', '.']
        >>> words_of("他在IBM工作。")
        ['他', '在', 'IBM', '工', '作', '。']

    """
    return _WORD.findall(text)


def tagged_rows(tokenizer: Any, sentences: Sentences, max_length: int) -> TokenRows:
    """Tokenise sentences; nothing of them is lost but what a single word has beyond a whole row.

    Rows have, besides the tokenizer's fields, `labels` (a word's tag at its first piece, −100 elsewhere) and
    `logits_mask` (1 at first pieces, 0 elsewhere). A sentence that is too long becomes several rows that overlap, and
    each of its words counts in one of them (see `spans`). Words of which the tokenizer makes nothing are in no row.

    Notes: `words` are the numbers of the words that count, row after row, among the words of all sentences;
    `word_offsets` (rows + 1,) says where in them a row begins, `sentences` (sentences + 1,) with which word a sentence
    begins, `tags` has the tag of each word, and `cut` are the numbers of words that are longer than a row.

    Args:
        tokenizer: a fast transformers tokenizer.
        sentences: what to tokenise.
        max_length: tokens per row at most, special ones included.

    Raises:
        DataError: rows too short for any word, or a tokenizer that cannot be used.

    """
    check_word_tokenizer(tokenizer)
    rows = _Rows()
    begins = np.concatenate([[0], np.cumsum([len(words) for words in sentences.words])]).astype(np.int64)
    for number, ids, types, of_word in _encoded(tokenizer, sentences.words):
        if begins[number] < begins[number + 1]:
            tags = np.array(sentences.tags[number])
            rows.add(ids, types, of_word, tags, int(begins[number]), max_length)
    tags = np.array([tag for tags in sentences.tags for tag in tags], dtype=np.int16)
    return rows.joined({"sentences": begins, "tags": tags})


def _encoded(tokenizer: Any, sentences: list[list[str]]) -> Iterator[tuple[int, np.ndarray, Any, np.ndarray]]:
    """Yield each sentence's number, ids, types (or None), and the word of each piece, −1 for special tokens."""
    for start in range(0, len(sentences), CHUNK):
        chunk = sentences[start : start + CHUNK]
        how = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(chunk, is_split_into_words=True, **how)
        for row in range(len(chunk)):
            of_word = np.array([-1 if word is None else word for word in encoded.word_ids(row)])
            types = encoded["token_type_ids"][row] if "token_type_ids" in encoded else None
            yield start + row, np.array(encoded["input_ids"][row]), types, of_word


class _Rows:
    """Collects rows, field by field."""

    def __init__(self) -> None:
        self.fields: dict[str, list[np.ndarray]] = defaultdict(list)
        self.words: list[np.ndarray] = []
        self.cut: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]

    def add(
        self, ids: np.ndarray, types: Any, of_word: np.ndarray, tags: np.ndarray, begin: int, max_length: int
    ) -> None:
        """Add the rows of one sentence, whose first word has the number `begin`."""
        special = of_word < 0
        room = max_length - int(special.sum())
        if room < 1:
            raise DataError(f"max_length={max_length} leaves no room for words between the special tokens; raise it.")
        places = np.searchsorted(of_word[~special], np.arange(len(tags) + 1))  # of the words' first pieces
        within = np.zeros(len(ids), dtype=np.int64)  # a piece's place within its word
        within[~special] = np.arange(places[-1]) - places[of_word[~special]]
        pieces = np.diff(places)
        self.cut.append(begin + np.flatnonzero(pieces > room))
        rows = spans(np.minimum(pieces, room), room)
        owner = owners(rows, len(tags))
        for row, (first, last) in enumerate(rows):
            inside = special | ((of_word >= first) & (of_word < last) & (within < room))
            counts = ~special & (within == 0) & (owner[of_word] == row)
            if (counts & inside).any():
                self._add(ids, types, of_word, tags, begin, inside, counts)

    def _add(self, ids: Any, types: Any, of_word: Any, tags: Any, begin: int, inside: Any, counts: Any) -> None:
        counts = counts[inside]
        words = of_word[inside]
        self.fields["input_ids"].append(ids[inside])
        if types is not None:
            self.fields["token_type_ids"].append(np.array(types)[inside])
        self.fields["labels"].append(np.where(counts, tags[words], IGNORED))
        self.fields["logits_mask"].append(counts)
        self.words.append(begin + words[counts])

    def joined(self, notes: dict[str, np.ndarray]) -> TokenRows:
        """Return all rows.

        Raises:
            DataError: there are none.

        """
        if not self.words:
            raise DataError("There is no word in any sentence that this tokenizer makes tokens of.")
        fields = {name: np.concatenate(rows).astype(KINDS[name]) for name, rows in self.fields.items()}
        notes = notes | {"words": np.concatenate(self.words), "word_offsets": _offsets(self.words)}
        notes["cut"] = np.concatenate(self.cut)
        return TokenRows(fields, _offsets(self.fields["input_ids"]), values={}, notes=notes)


def _offsets(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])])
