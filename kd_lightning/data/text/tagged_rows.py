"""Tagged words → token rows: a word's first piece has its tag, and long sentences become several rows."""

from __future__ import annotations

import re
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
    """Check that a tokenizer maps pieces to words, and keeps words apart.

    Raises:
        DataError: if it is a slow one, without word ids, or takes several words for parts of one.

    """
    if not tokenizer.is_fast:
        raise DataError(
            f"Tags need a fast tokenizer, which has the word of each piece; {type(tokenizer).__name__} is slow."
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
    `word_offsets` (rows + 1,) is where in them a row begins, `sentences` (sentences + 1,) with which word a sentence
    begins, `tags` has the tag of each word, and `cut` are the numbers of words that are longer than a row.

    Args:
        tokenizer: a fast transformers tokenizer.
        sentences: what to tokenise.
        max_length: tokens per row at most, special ones included.

    Raises:
        DataError: if rows are too short for any word, or the tokenizer cannot be used.

    """
    check_word_tokenizer(tokenizer)
    begins = np.concatenate([[0], np.cumsum([len(words) for words in sentences.words])]).astype(np.int64)
    rows: list[dict[str, np.ndarray]] = []
    cut = [np.zeros(0, dtype=np.int64)]
    for number, ids, types, of_word in _encoded(tokenizer, sentences.words):
        if begins[number] < begins[number + 1]:
            fields = {"input_ids": ids} | ({"token_type_ids": types} if types is not None else {})
            found, long = _rows_of_sentence(fields, of_word, np.array(sentences.tags[number]), max_length)
            rows += [row | {"words": begins[number] + row["words"]} for row in found]
            cut.append(begins[number] + long)
    if not rows:
        raise DataError("There is no word in any sentence that this tokenizer makes tokens of.")
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    notes: dict[str, np.ndarray] = {
        "sentences": begins,
        "tags": np.array([tag for tags in sentences.tags for tag in tags], dtype=np.int16),
        "words": joined.pop("words"),
        "word_offsets": _offsets([row["words"] for row in rows]),
        "cut": np.concatenate(cut),
    }
    fields = {name: flat.astype(KINDS[name]) for name, flat in joined.items()}
    return TokenRows(fields, _offsets([row["input_ids"] for row in rows]), values={}, notes=notes)


def _encoded(
    tokenizer: Any, sentences: list[list[str]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None, np.ndarray]]:
    """Yield each sentence's number, ids, types (or None), and the word of each piece, −1 for special tokens."""
    for start in range(0, len(sentences), CHUNK):
        chunk = sentences[start : start + CHUNK]
        how = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(chunk, is_split_into_words=True, **how)
        for row in range(len(chunk)):
            of_word = np.array([-1 if word is None else word for word in encoded.word_ids(row)])
            types = np.array(encoded["token_type_ids"][row]) if "token_type_ids" in encoded else None
            yield start + row, np.array(encoded["input_ids"][row]), types, of_word


def _rows_of_sentence(
    fields: dict[str, np.ndarray], of_word: np.ndarray, tags: np.ndarray, max_length: int
) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return the rows of a sentence, each with the `words` that count in it, and the words longer than a row."""
    special = of_word < 0
    room = max_length - int(special.sum())
    if room < 1:
        raise DataError(f"max_length={max_length} leaves no room for words between the special tokens; raise it.")
    places = np.searchsorted(of_word[~special], np.arange(len(tags) + 1))  # of the words' first pieces
    within = np.zeros(len(of_word), dtype=np.int64)  # a piece's place within its word
    within[~special] = np.arange(places[-1]) - places[of_word[~special]]
    pieces = np.diff(places)
    parts = spans(np.minimum(pieces, room), room)
    owner = owners(parts, len(tags))
    rows = []
    for row, (first, last) in enumerate(parts):
        inside = special | ((of_word >= first) & (of_word < last) & (within < room))
        counts = (~special & (within == 0) & (owner[of_word] == row))[inside]
        if counts.any():
            words = of_word[inside]
            labels = {"labels": np.where(counts, tags[words], IGNORED), "logits_mask": counts, "words": words[counts]}
            rows.append({name: values[inside] for name, values in fields.items()} | labels)
    return rows, np.flatnonzero(pieces > room)


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
    """Return in which row each word counts: the one where it is farthest from the nearer end, the first of equals.

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
"""The notes that `tagged_rows` keeps with its rows."""


@dataclass(frozen=True)
class Rebuilt:
    """Sentences with their tags and those predicted.

    Args:
        numbers: which sentences of the split they are, in its order.
        gold: the names of each one's tags.
        predicted: the names of the predicted tags, as many.

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
        tags: the numbers of the predicted tags, where logits count, row after row.
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
