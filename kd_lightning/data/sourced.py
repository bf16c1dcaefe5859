"""What data modules share whose rows come from files or the hub: tokenised once, kept under a fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.data.base import SPLITS, Rows, TokenDataModule
from kd_lightning.data.encode import check_tokenizer
from kd_lightning.data.files import Source, check_columns
from kd_lightning.data.paired import PairedRows
from kd_lightning.data.tokens import TokenRows
from kd_lightning.errors import DataError, hint
from kd_lightning.storage.digest import digest
from kd_lightning.storage.once import build_once, cache_root

log = logging.getLogger(__name__)

FORMAT = 2  # of the files in the cache; in every fingerprint


class SourcedDataModule(TokenDataModule):
    """Loaders over rows that are read from Parquet files or the Hugging Face hub.

    Rows are tokenised once and kept, without padding, under a fingerprint of the data, the tokenizer and the settings;
    later runs and other processes map the same files. A subclass says which columns it reads (`columns`), which
    settings shape its rows (`shaped_by`) and how a split becomes rows (`tokenise`).

    Args:
        name: the data set's name; with `root`, its folder.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, `test` are called there.
        rename: columns that have another name there: `{premise: sentence1}`; passed over where they have the one here.
        limit: use only the first rows of each split, for trying things.
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: further arguments of `TokenDataModule`.

    Raises:
        DataError: for settings that make no sense.

    """

    def __init__(
        self,
        *,
        name: str,
        root: str | Path | None = None,
        hub: str | None = None,
        subset: str | None = None,
        splits: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        limit: int | None = None,
        cache_dir: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.name = name
        self.limit = limit
        self.cache_dir = cache_dir
        self.sources = {
            split: Source(name, stem, root, hub, subset, split, dict(rename or {}))
            for split, stem in (splits or {"train": "train", "validation": "validation"}).items()
        }
        if limit is not None and limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {limit}.")
        for split in self.sources:
            if split not in SPLITS:
                raise DataError(f"There is no use for a split called '{split}'. {hint(split, SPLITS)}")

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        raise NotImplementedError

    @property
    def shaped_by(self) -> tuple[Any, ...]:
        """The settings that shape rows, besides tokenizer, `max_length` and `limit`."""
        raise NotImplementedError

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, made anew from its `table`."""
        raise NotImplementedError

    @property
    def splits_here(self) -> Iterable[str]:
        """The splits that were named."""
        return self.sources

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count. Needs the tokenizer."""
        return self._augmented(digest([self._key(split) for split in sorted(self.sources)]))

    def make_rows(self, split: str) -> Rows:
        """Return a split's tokenised rows from the cache, after putting them there if need be."""
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-{split}-{self._key(split)}"
        built = build_once(folder, lambda scratch: self.tokenise(split).save(scratch))
        rows: Rows = TokenRows.open(folder) if self.teacher_tokenizer is None else PairedRows.open(folder)
        log.info("%s %s: %d rows, %s %s.", self.name, split, len(rows), "tokenised into" if built else "reused", folder)
        return rows

    def table(self, split: str) -> Any:
        """Return a split as a `pyarrow.Table` of no more than `limit` rows.

        Raises:
            DataError: it is missing, empty, or lacks one of `columns`.

        """
        source = self.sources[split]
        table = source.table()
        check_columns(table, source, self.columns)
        return table if self.limit is None else table.slice(0, self.limit)

    def _key(self, split: str) -> str:
        """Hash of everything that shapes a split's rows."""
        check_tokenizer(self.tokenizer, self.max_length)
        made_with = (self.tokenizer_fingerprints, self.max_length, self.limit)
        return digest(FORMAT, self.sources[split].identity(self.columns), *self.shaped_by, made_with)
