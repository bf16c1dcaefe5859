"""Tables of text → token rows, tokenised once and kept under a fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data.readers import Row
from kd_lightning.data.sourced import FORMAT, SourcedDataModule
from kd_lightning.data.text.module import TokenDataModule
from kd_lightning.data.text.texts import Texts
from kd_lightning.data.text.tokenizing import batched, check_tokenizer
from kd_lightning.data.text.tokens import DualTokenizedRows, Rows, TokenRows, stacked

log = logging.getLogger(__name__)


class TextDataModule(SourcedDataModule, TokenDataModule):
    """Loaders over the texts of tables. A subclass writes, besides its columns, how a split becomes rows (`tokenise`).

    Rows are tokenised once and kept, without padding, under a fingerprint of the data, the tokenizer and the settings;
    later runs and other processes map the same files.

    Args:
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        unlabelled: text to train on beside the labelled rows, for a teacher to label: a file, a folder, or the name of
            a data set below `root`; see `Texts`. Its labels are −100, which no hard-label loss counts.
        unlabelled_ratio: rows of it for each labelled one, in every epoch, all once before any is used again; None: all
            of them in every epoch.
        unlabelled_text: the column that has its text, in tables without the columns of this data set.
        loading: further arguments of `SourcedDataModule` (where rows come from), `TokenDataModule` and `RowDataModule`
            (how batches are made).

    Raises:
        DataError: if settings contradict each other.

    """

    def __init__(
        self,
        *,
        cache_dir: str | Path | None = None,
        unlabelled: str | Path | None = None,
        unlabelled_ratio: float | None = None,
        unlabelled_text: str = "text",
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.cache_dir = cache_dir
        self.unlabelled = unlabelled
        self.unlabelled_ratio = unlabelled_ratio
        self.unlabelled_text = unlabelled_text
        if unlabelled_ratio is not None and not 0 < unlabelled_ratio < float("inf"):
            raise DataError(
                f"unlabelled_ratio is rows for each labelled one, a number above 0; got {unlabelled_ratio}."
            )

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, made anew from its `tables`."""
        raise NotImplementedError

    def without_labels(self, texts: list[Row]) -> Rows:
        """Return rows of texts without labels, tuples of one text per column.

        Raises:
            DataError: if there can be none for such a task.

        """
        raise DataError(f"{type(self).__name__} has no use for text without labels: leave out `unlabelled`.")

    @property
    def text_columns(self) -> Sequence[str]:
        """Those of the columns that have texts."""
        return self.columns[:1]

    @property
    def prepared_by(self) -> tuple[Any, ...]:
        """What decides tokenised rows besides `cache_key_fields`."""
        return self.tokenizer_fingerprints, self.max_length, self.limit

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count. Needs the tokenizer."""
        keys = [self.split_key(split) for split in sorted(self.sources)]
        keys += [self._unlabelled_key(self._unlabelled_texts())] if self.unlabelled is not None else []
        return self.augmented_fingerprint(digest(keys))

    def split_key(self, split: str) -> str:
        """Return a hash of everything that decides a split's rows."""
        check_tokenizer(self.tokenizer, self.max_length)
        return super().split_key(split)

    def make_rows(self, split: str) -> Rows:
        """Return a split's tokenised rows from the cache, after putting them there if need be."""
        return self._cached(split, self.split_key(split), lambda: self.tokenise(split))

    def make_unlabelled(self) -> Rows | None:
        """Return the rows without labels from the cache, after putting them there if need be."""
        if self.unlabelled is None:
            return None
        texts = self._unlabelled_texts()

        def tokenise() -> Rows:
            rows = islice(texts.rows(self.text_columns), self.limit)
            return stacked([self.without_labels(some) for some in batched(rows)])

        return self._cached("unlabelled", self._unlabelled_key(texts), tokenise)

    def _cached(self, what: str, key: str, make: Callable[[], Rows]) -> Rows:
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-{what}-{key}"
        built = build_once(folder, lambda scratch: make().save(scratch))
        rows: Rows = TokenRows.open(folder) if self.teacher_tokenizer is None else DualTokenizedRows.open(folder)
        log.info("%s %s: %d rows, %s %s.", self.name, what, len(rows), "tokenised into" if built else "reused", folder)
        return rows

    def _unlabelled_texts(self) -> Texts:
        assert self.unlabelled is not None
        return Texts.find(self.unlabelled, self.root, "train", self.unlabelled_text)

    def _unlabelled_key(self, texts: Texts) -> str:
        return digest(FORMAT, texts.identity(), self.text_columns, *self.cache_key_fields, self.prepared_by)
