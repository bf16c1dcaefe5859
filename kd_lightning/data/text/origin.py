"""Where the text of a masked language model comes from, and which of it is held out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.base import SELECTION
from kd_lightning.data.holdout import check_share
from kd_lightning.data.sources import Source
from kd_lightning.data.text.texts import Document, Texts, lines_in

HOLDOUT = 0.05  # share of the documents, where there is nothing else to validate on


@dataclass(frozen=True)
class Origin:
    """Text for training and for validation: two places, or one of which a share of the documents is held out.

    Args:
        path: a file, a folder, or the name of a data set below `root`; None: the hub.
        text: the column of tables that has the text.
        root: a folder of data sets.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        validation: text to validate on, as `path`.
        holdout: share of the documents that is held out: as `selection` where there is text to validate on, else to
            validate on, 0.05 if None.

    Raises:
        DataError: if neither `path` nor `hub` is given, or `holdout` is not between 0 and 1.

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
    holdout: float | None = None

    def __post_init__(self) -> None:
        if self.path is None and self.hub is None:
            raise DataError(
                "There is no text: give data.path=FILE, a folder, or data.hub=NAME; for a plan that learns the "
                "language first, data.unlabelled=FILE."
            )
        if self.holdout is not None:
            check_share(self.holdout, "documents")

    @property
    def held_split(self) -> str | None:
        """Which split the documents are that are held out of the training text; None: none are."""
        if self.path is not None and self._validation() is None:
            return "validation"
        return None if self.holdout is None else SELECTION

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of `train`, `validation` or `selection`.

        Raises:
            DataError: text that is missing or damaged.

        """
        held = self.held_split
        if held is None or split not in ("train", held):
            yield from self._all(split)
            return
        for document in self._all("train"):
            if self._is_held_out(document) == (split == held):
                yield document

    def identity(self, split: str) -> str:
        """Return a hash of the contents, and of the share that is held out of them."""
        held = self.held_split
        of_share = held is not None and split in ("train", held)
        place = "train" if of_share else split
        whole = self._source(place).identity([self.text]) if self.path is None else self._place(place).identity()
        return digest(whole, self.share) if of_share else whole

    def nothing_in(self, split: str) -> str:
        """Return the sentence for a split without text."""
        return (
            f"There is no text for {split} in {self.path or self.hub} (holdout={self.share}). Give more text, "
            "data.validation=FILE, or another data.holdout."
        )

    @property
    def share(self) -> float:
        """The share of the documents that is held out, where some are."""
        return HOLDOUT if self.holdout is None else self.holdout

    def _all(self, split: str) -> Iterator[Document]:
        return self._from_hub(split) if self.path is None else self._place(split).documents()

    def _place(self, split: str) -> Texts:
        own = self._validation() if split == "validation" else None
        return own or self._texts()

    def _texts(self) -> Texts:
        assert self.path is not None
        return Texts.find(self.path, self.root, "train", self.text)

    def _validation(self) -> Texts | None:
        """Return the text that is there to validate on; None: some of the other is held out."""
        if self.validation is not None:
            return Texts.find(self.validation, self.root, "validation", self.text)
        assert self.path is not None
        own = Texts.find(self.path, self.root, "validation", self.text)
        return own if self._texts().is_split("train") and own.is_split("validation") else None

    def _is_held_out(self, document: Document) -> bool:
        """Tell by what is in a document, so that one that comes twice is never on both sides."""
        hashed = hashlib.blake2b("\n".join(document).encode(), digest_size=8).digest()
        return int.from_bytes(hashed) < self.share * 2**64

    def _source(self, split: str) -> Source:
        return Source(str(self.hub), split, None, self.hub, self.subset)

    def _from_hub(self, split: str) -> Iterator[Document]:
        source = self._source(split)
        table = source.table()
        if self.text not in table.column_names:
            raise DataError(f"{source} has no column '{self.text}'. {hint(self.text, table.column_names)}")
        for batch in table.select([self.text]).to_batches():
            yield from filter(None, (lines_in(text) for text in batch.column(0).to_pylist() if text is not None))
