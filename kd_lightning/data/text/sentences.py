"""Tagged sentences from a table: words, and a tag for each, by name or by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.data.sources import Source, check_columns, class_names
from kd_lightning.functional.hard_label import IGNORED

OUTSIDE = "O"


@dataclass(frozen=True)
class Sentences:
    """Sentences of words.

    Args:
        words: the words of each sentence, or its characters.
        tags: a tag's number for each of them.

    """

    words: list[list[str]]
    tags: list[list[int]]

    @classmethod
    def joined(cls, parts: Sequence[Sentences]) -> Sentences:
        """Return the sentences of several."""
        return cls([w for part in parts for w in part.words], [t for part in parts for t in part.tags])


def read_sentences(
    table: Any, source: Source, tokens: str, tags: str, labels: Sequence[str], untagged: bool = False
) -> Sentences:
    """Return the sentences of a table; tags become their places in `labels`.

    Tags that are numbers count the names the table has for them, as data sets from the hub do, else `labels`.

    Args:
        table: a `pyarrow.Table` that has the columns.
        source: where it comes from, for errors.
        tokens: the column with a list of words.
        tags: the column with a list of tags.
        labels: the names of the tags.
        untagged: sentences without tags are fine: where the column is missing or null, tags are −100.

    Raises:
        DataError: a row without words, with another number of tags, or with a tag that `labels` does not have.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"tokens": [["in", "Rome"], []], "tags": [["O", "B-LOC"], []]})
        >>> read_sentences(table, Source("here", "train"), "tokens", "tags", ["O", "B-LOC"]).tags
        [[0, 1], []]

    """
    check_columns(table, source, [tokens] if untagged else [tokens, tags])
    words = table.column(tokens).to_pylist()
    found = table.column(tags).to_pylist() if tags in table.column_names else [None] * len(words)
    number = _numbers(source, tags, labels, class_names(table, tags) or labels)
    for row, (sentence, names) in enumerate(zip(words, found, strict=True)):
        _check_words(f"{source}, row {row}", sentence, tokens)
        if names is not None or not untagged:
            _check_tags(f"{source}, row {row}", sentence, names, tokens, tags)
    untaught = [[IGNORED] * len(sentence) for sentence in words]
    numbers = [
        untaught[row] if names is None else [number(tag, row) for tag in names] for row, names in enumerate(found)
    ]
    return Sentences(words, numbers)


def _check_words(place: str, words: Any, tokens_column: str) -> None:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"{place}, holds {words!r} in column '{tokens_column}', where a list of words should be.")


def _check_tags(place: str, words: list[str], tags: Any, tokens_column: str, tags_column: str) -> None:
    if not isinstance(tags, list):
        raise DataError(f"{place}, holds {tags!r} in column '{tags_column}', where a list of tags should be.")
    if len(words) != len(tags):
        raise DataError(f"{place}, has {len(words)} words ('{tokens_column}') but {len(tags)} tags ('{tags_column}').")


def _numbers(source: Source, column: str, labels: Sequence[str], names: Sequence[str]) -> Callable[[Any, int], int]:
    """Return a function (tag, row) → the tag's place in `labels`."""
    places = {label: place for place, label in enumerate(labels)}
    known: dict[Any, int] = {place: places[name] for place, name in enumerate(names) if name in places} | places

    def number(tag: Any, row: int) -> int:
        try:
            return known[tag]
        except (KeyError, TypeError):
            name = names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag
            raise DataError(
                f"{source}, column '{column}', row {row} has the tag {name!r}, which data.labels does not name. "
                f"{hint(str(name), labels)}"
            ) from None

    return number


def check_labels(labels: Sequence[str]) -> None:
    """Refuse names of tags that repeat, or that have none for words outside of entities.

    Raises:
        DataError: as said.

    """
    if len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if list(labels).count(label) > 1})
        raise DataError(f"labels names {', '.join(twice)} more than once.")
    if OUTSIDE not in labels:
        raise DataError(f"labels needs the tag '{OUTSIDE}', of words outside of entities; got {', '.join(labels)}.")
