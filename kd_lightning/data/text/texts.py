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

from kd_lightning.core.errors import DataError, closest, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.readers import PLAIN, SUFFIXES, Row, column_names, lines_of, rows_of
from kd_lightning.data.sources import Source

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
                folder are then left alone, for they may be what one is judged by.
            text: the column of tables that has the text.

        Raises:
            DataError: there is no such place, or nothing that can be read.

        """
        place = _place(path, root)
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
            DataError: no text at all, a file that is damaged, or a table without the column.

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
            DataError: as `documents`, or texts of which no two follow each other, for a task of pairs.

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


def _place(path: str | Path, root: str | Path | None) -> Path:
    """Return where the texts are, or say what is near."""
    here = Path(str(path)).expanduser()
    below = Path(str(root)).expanduser() / path if root is not None else here
    for place in (here, below):
        if place.exists():
            return place
    names = [str(near) for near in _neighbours(here)]
    names += [near.name for near in _neighbours(below)] if root is not None else []
    near = closest(str(path), names)
    where = f", nor a data set of that name in {root}" if root is not None else ""
    raise DataError(f"There is no file or folder {path}{where}." + (f" {hint(str(path), near)}" if near else ""))


def _neighbours(place: Path) -> list[Path]:
    return sorted(place.parent.iterdir()) if place.parent.is_dir() else []


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


@dataclass(frozen=True)
class Origin:
    """Text for training and for validation: two places, or one of which a share of the documents is held back.

    Args:
        path: a file, a folder, or the name of a data set below `root`; None: the hub.
        text: the column of tables that has the text.
        root: a folder of data sets.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        validation: text to validate on, as `path`.
        holdout: share of the documents to validate on, where nothing else is there for that.

    Raises:
        DataError: no place at all, or a share that makes no sense.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.txt").write_text("one\\n\\ntwo\\n\\nthree\\n\\nfour")
        ...     origin = Origin(folder, holdout=0.5)
        ...     {split: list(origin.documents(split)) for split in ("train", "validation")}
        {'train': [['two']], 'validation': [['one'], ['three'], ['four']]}

    """

    path: str | Path | None = None
    text: str = "text"
    root: str | Path | None = None
    hub: str | None = None
    subset: str | None = None
    validation: str | Path | None = None
    holdout: float = 0.05

    def __post_init__(self) -> None:
        if self.path is None and self.hub is None:
            raise DataError("There is no text: give data.path=FILE, a folder, or data.hub=NAME.")
        if not isinstance(self.holdout, int | float) or not 0 < self.holdout < 1:
            raise DataError(f"holdout is a share of the documents, above 0 and below 1; got {self.holdout!r}.")

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of `train` or `validation`.

        Raises:
            DataError: text that is missing or damaged.

        """
        if self.path is None:
            yield from self._from_hub(split)
            return
        own = self._validation()
        if own is not None:
            yield from (own if split == "validation" else self._texts()).documents()
            return
        for document in self._texts().documents():
            if self._held_back(document) == (split == "validation"):
                yield document

    def identity(self, split: str) -> str:
        """Return a hash of the contents, and of the share that is held back of them."""
        if self.path is None:
            return self._source(split).identity([self.text])
        own = self._validation()
        if own is not None:
            return (own if split == "validation" else self._texts()).identity()
        return digest(self._texts().identity(), self.holdout)

    def nothing_in(self, split: str) -> str:
        """Return the sentence for a split without text."""
        return (
            f"There is no text for {split} in {self.path or self.hub} (holdout={self.holdout}). Give more text, "
            "data.validation=FILE, or another data.holdout."
        )

    def _texts(self) -> Texts:
        assert self.path is not None
        return Texts.find(self.path, self.root, "train", self.text)

    def _validation(self) -> Texts | None:
        """Return the text that is there to validate on; None: some of the other is held back."""
        if self.validation is not None:
            return Texts.find(self.validation, self.root, "validation", self.text)
        assert self.path is not None
        own = Texts.find(self.path, self.root, "validation", self.text)
        return own if self._texts().is_split("train") and own.is_split("validation") else None

    def _held_back(self, document: Document) -> bool:
        """Tell by what is in a document, so that one that comes twice is never on both sides."""
        hashed = hashlib.blake2b("\n".join(document).encode(), digest_size=8).digest()
        return int.from_bytes(hashed) < self.holdout * 2**64

    def _source(self, split: str) -> Source:
        return Source(str(self.hub), split, None, self.hub, self.subset)

    def _from_hub(self, split: str) -> Iterator[Document]:
        source = self._source(split)
        table = source.table()
        if self.text not in table.column_names:
            raise DataError(f"{source} has no column '{self.text}'. {hint(self.text, table.column_names)}")
        for batch in table.select([self.text]).to_batches():
            yield from filter(None, (lines_in(text) for text in batch.column(0).to_pylist() if text is not None))
