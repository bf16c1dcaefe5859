"""Tagged words → token rows: a word's first piece has its tag, and long sentences become several rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.alignment import CHINESE
from kd_lightning.data.text.sentences import Sentences
from kd_lightning.data.text.tokenizing import CHUNK, FIELDS
from kd_lightning.data.text.tokens import TokenRows
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


Span: TypeAlias = tuple[int, int]
"""First word of a row, and the first word after it."""

OVERLAP = 4  # a row repeats at most one part in so many of the row before it


def spans(pieces: Sequence[int] | np.ndarray, room: int) -> list[Span]:
    """Cut a sentence into rows at word boundaries; rows overlap, and the last one begins early enough to be full.

    Args:
        pieces: how many word pieces each word has; no word has more than `room`.
        room: word pieces per row at most.

    Returns:
        The words of each row; one row where the sentence fits.

    Example:
        >>> spans([1, 1, 2, 1], room=8), spans([1] * 9, room=4)
        ([(0, 4)], [(0, 4), (3, 7), (5, 9)])

    """
    ends = np.concatenate([[0], np.cumsum(pieces, dtype=np.int64)])
    words, first, found = len(pieces), 0, []
    while ends[first] + room < ends[-1]:
        last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
        found.append((first, last))
        overlap = min(room // OVERLAP, room - int(pieces[last]))  # the next word fits too
        first = int(np.searchsorted(ends, ends[last] - overlap))
    return [*found, (int(np.searchsorted(ends, ends[-1] - room)) if found else 0, words)]


def owners(rows: Sequence[Span], words: int) -> np.ndarray:
    """Return which row speaks for each word: the one where it is farthest from the nearer end, the first of equals.

    Args:
        rows: the words of each row, together all words.
        words: number of words.

    Returns:
        (words,), numbers of rows.

    Example:
        >>> owners([(0, 4), (2, 7)], words=7).tolist()
        [0, 0, 0, 1, 1, 1, 1]

    """
    word = np.arange(words)
    context = np.stack([np.minimum(word - first, last - 1 - word) for first, last in rows])
    return context.argmax(axis=0)


Notes: TypeAlias = Mapping[str, np.ndarray]
"""What `tagged_rows` notes of its rows."""


@dataclass(frozen=True)
class Rebuilt:
    """Sentences with the tags they have and those they were given.

    Args:
        numbers: which sentences of the split they are, in its order.
        gold: the names of each one's tags.
        predicted: the names of the tags they were given, as many.

    """

    numbers: list[int]
    gold: list[list[str]]
    predicted: list[list[str]]


def rebuild(notes: Notes, rows: np.ndarray, tags: np.ndarray, labels: list[str], outside: str) -> Rebuilt:
    """Put sentences together from rows, in whatever order these come.

    A sentence is there if all its rows are. Words that are in no row, as the tokenizer made nothing of them, are
    `outside`; sentences without any row are made of these.

    Args:
        notes: of the split's rows.
        rows: the numbers of those that were predicted; one that comes twice counts once.
        tags: the numbers of the tags they were given, where logits count, row after row.
        labels: the names of the tags.
        outside: the name of the tag of words that are in no row.

    """
    names = np.array(labels, dtype=object)
    given = np.full(len(notes["tags"]), labels.index(outside))
    given[notes["words"][_places(notes["word_offsets"], rows)]] = tags
    numbers = np.flatnonzero(_complete(notes, rows))
    begins, ends = notes["sentences"][:-1][numbers], notes["sentences"][1:][numbers]
    spans = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
    sides = (names[side] for side in (np.asarray(notes["tags"]), given))
    gold, predicted = ([side[span].tolist() for span in spans] for side in sides)
    return Rebuilt(numbers.tolist(), gold, predicted)


def sentence_of_row(notes: Notes) -> np.ndarray:
    """Return the number of each row's sentence: (rows,).

    Example:
        >>> notes = {"words": np.array([0, 1, 2, 5]), "word_offsets": np.array([0, 2, 3, 4])}
        >>> sentence_of_row(notes | {"sentences": np.array([0, 3, 3, 6])}).tolist()
        [0, 0, 2]

    """
    first_words = notes["words"][notes["word_offsets"][:-1]]
    return np.searchsorted(notes["sentences"], first_words, side="right") - 1


def _complete(notes: Notes, rows: np.ndarray) -> np.ndarray:
    """Return whether each sentence has all its rows among these."""
    missing = np.ones(len(notes["word_offsets"]) - 1, dtype=bool)
    missing[rows] = False
    complete = np.ones(len(notes["sentences"]) - 1, dtype=bool)
    complete[sentence_of_row(notes)[missing]] = False
    return complete


def _places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return all places of some rows in a flat array, row after row."""
    lengths = offsets[rows + 1] - offsets[rows]
    before = np.cumsum(lengths) - lengths
    return np.repeat(offsets[rows] - before, lengths) + np.arange(lengths.sum())
