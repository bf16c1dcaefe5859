"""Any text: a file, a folder of files, or a data set, as documents or as rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.readers import PLAIN, SUFFIXES, Row, column_names, find_place, lines_of, rows_of

Document: TypeAlias = list[str]
"""The lines of a text that belongs together, none of them blank."""

LONGEST = 128  # lines of a document: a file without blank lines is many documents, and none fills the memory

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Texts:
    """Texts in files, read a little at a time.

    `.txt`: lines, in documents that end at blank lines (or after 128 lines); `.parquet`, `.csv`, `.jsonl` and `.json`
    (a list of objects, or one object per line): one document per row. Everything is UTF-8.

    Args:
        files: in the order they are read; all of them together must hold some text.
        text: the column of tables that has the text.
        name: for messages.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.txt").write_text("One line.\\nAnother.\\n\\nA new document.")
        ...     texts = Texts.find(folder)
        ...     list(texts.documents()), list(texts.rows(["question", "answer"]))
        ([['One line.', 'Another.'], ['A new document.']], [('One line.', 'Another.')])

    """

    files: tuple[Path, ...]
    text: str = "text"
    name: str = ""

    @classmethod
    def find(cls, path: str | Path, root: str | Path | None = None, split: str = "train", text: str = "text") -> Texts:
        """Return the texts of a file, of a folder with all that is below it, or of a data set.

        Args:
            path: a file or folder; or the name of a data set below `root`.
            root: a folder of data sets.
            split: what is read of a folder that has files of this name, such as `train.parquet`; other files of that
                folder are then left alone, for they may be what is evaluated.
            text: the column of tables that has the text.

        Raises:
            DataError: if there is no such place, or nothing in it that can be read.

        """
        place = find_place(path, root)
        files = _files_of(place, split)
        if not files:
            raise DataError(f"{place} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
        return cls(tuple(files), text, str(path))

    def __str__(self) -> str:
        return self.name or ", ".join(map(str, self.files))

    def identity(self) -> str:
        """Return a hash of the contents."""
        states = [(file, file.stat()) for file in self.files]
        hashes = [(file.suffix, _hash(file, state.st_size, state.st_mtime_ns)) for file, state in states]
        return digest(hashes, self.text)

    def is_split(self, split: str) -> bool:
        """Tell whether these are the files of one split of a data set."""
        return all(file.stem == split for file in self.files)

    def documents(self) -> Iterator[Document]:
        """Yield all documents; a row of a table that repeats the one before (a context with several questions) once.

        Raises:
            DataError: if there is no text at all, a file is damaged, or a table lacks the column.

        """
        document = None
        for file in self.files:
            for document in self._of(file):
                yield document
        if document is None:
            raise DataError(f"There is no text in {self}: every line is blank.")

    def _of(self, file: Path) -> Iterator[Document]:
        return _paragraphs(lines_of(file)) if file.suffix in PLAIN else _of_table(file, self.text)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield texts as a task with these text columns has them: one, or two, per row.

        Tables that have the columns give them as they are. Of other files every line is a row, and of a task of
        pairs every two lines that follow each other in a document; a document of one line is cut into sentences.

        Raises:
            DataError: as `documents`, or if no two texts follow each other, for a task of pairs.

        """
        row = None
        for row in self._rows(columns):
            yield row
        if row is None:
            what = "are no two texts that follow each other" if len(columns) > 1 else "is no text"
            raise DataError(f"There {what} in {self}.")

    def _rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for file in self.files:
            if file.suffix not in PLAIN and set(columns) <= set(column_names(file)):
                yield from rows_of(file, columns)
                continue
            for document in self._of(file):
                yield from pairwise(_units(document)) if len(columns) > 1 else ((line,) for line in document)


@lru_cache(maxsize=1024)
def _hash(file: Path, size: int, changed: int) -> str:
    """Return a file's hash; a large file that is as it was is not read again."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files_of(place: Path, split: str) -> list[Path]:
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise DataError(f"{place} is of no kind that can be read. {hint(place.suffix, SUFFIXES)}")
        return [place]
    known = [file for file in sorted(place.rglob("*")) if file.suffix in SUFFIXES and file.is_file()]
    return [file for file in known if file.parent == place and file.stem == split] or known


def _paragraphs(lines: Iterable[str]) -> Iterator[Document]:
    """Yield runs of lines that are not blank."""
    document: Document = []
    for line in lines:
        if document and (not line or len(document) == LONGEST):
            yield document
            document = []
        if line:
            document.append(line)
    if document:
        yield document


def _of_table(file: Path, column: str) -> Iterator[Document]:
    before = ""
    for (text,) in rows_of(file, [column]):
        if text != before and (document := lines_in(text)):
            yield document
        before = text


def lines_in(text: str) -> Document:
    """Return the lines of a text that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _units(document: Document) -> list[str]:
    """Return the lines of a document, or the sentences of its only line."""
    if len(document) > 1:
        return document
    return [sentence.strip() for sentence in _SENTENCE.split(document[0]) if sentence.strip()]
