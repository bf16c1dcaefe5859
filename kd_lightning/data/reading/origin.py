"""Where plain text comes from, and which of its documents are for training and which for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.reading.files import Source
from kd_lightning.data.reading.texts import Document, Texts, lines_in


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
