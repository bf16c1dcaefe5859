"""Data modules whose rows are read from tables: Parquet files or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.base import SPLITS
from kd_lightning.data.rows import RowDataModule
from kd_lightning.data.sources import Source, check_columns, extra_source

FORMAT = 3  # of prepared rows; in every fingerprint
EXTRA = 2  # the same, of rows with extra ones behind them


class SourcedDataModule(RowDataModule):
    """Loaders over rows that are read from Parquet files or the Hugging Face hub.

    A subclass names the columns it reads (`columns`) and the settings that decide its rows (`cache_key_fields`), and
    makes rows of a split's `tables` in `make_rows`.

    Args:
        name: the data set's name; with `root`, its folder.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, others of `SPLITS` are called there.
        rename: columns that have another name there: `{premise: sentence1}`; passed over where they have the one here.
        limit: use only the first rows of each split, and of each extra data set, for trying things.
        extra: further data sets of the same columns to train on: `NAME`, `NAME/SPLIT` or `FILE.parquet`, as
            `extra_source` finds them; rows without labels are for the teacher to label. Each is read by the names that
            it has for its own labels, where it has some.
        extra_hubs: where those are on the hub, by name.
        loading: further arguments of the next class: how batches are made.

    Raises:
        DataError: if settings contradict each other.

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
        extra: str | Sequence[str] | None = None,
        extra_hubs: Mapping[str, Any] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.name = name
        self.root = root
        self.rename = dict(rename or {})
        self.limit = limit
        self.sources = {
            split: Source(name, stem, root, hub, subset, split, self.rename)
            for split, stem in (splits or {"train": "train", "validation": "validation"}).items()
        }
        named = [extra] if isinstance(extra, str) else list(extra or ())
        self.extra = [replace(extra_source(one, root, extra_hubs), rename=self.rename) for one in named]
        if limit is not None and limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {limit}.")
        for split in self.sources:
            if split not in SPLITS:
                raise DataError(f"There is no use for a split called '{split}'. {hint(split, SPLITS)}")
        self._check_extra()

    def _check_extra(self) -> None:
        """Check that no extra rows are those of a split that is evaluated."""
        for split, source in self.sources.items():
            same = next((one for one in self.extra if split != "train" and one.is_same(source)), None)
            if same is not None:
                raise DataError(
                    f"data.extra has {same}, from which the {split} split is read: a student would be trained on "
                    "what it is evaluated on. Leave it out, or type data.extra=[NAME/SPLIT] to take another split."
                )

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        raise NotImplementedError

    @property
    def optional(self) -> Sequence[str]:
        """The columns that are read where they are there."""
        return ()

    @property
    def label_columns(self) -> Sequence[str]:
        """Those of `columns` that extra data may lack: the labels."""
        return ()

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what rows are made of a table, `limit` aside."""
        return ()

    @property
    def prepared_by(self) -> tuple[Any, ...]:
        """What else decides them, such as a tokenizer, and `limit`."""
        return (self.limit,)

    @property
    def renamed(self) -> tuple[Any, ...]:
        """The part of `cache_key_fields` for `rename`: nothing where that is empty."""
        return (sorted(self.rename.items()),) if self.rename else ()

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits that were named."""
        return self.sources

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count."""
        return digest([self.split_key(split) for split in sorted(self.sources)])

    def split_key(self, split: str) -> str:
        """Return a hash of everything that decides a split's rows."""
        first, *more = (source.identity([*self.columns, *self.optional]) for source in self._sources(split))
        return digest(FORMAT, first, *self.cache_key_fields, self.prepared_by, *([EXTRA, *more] if more else []))

    def tables(self, split: str) -> list[tuple[Any, Source]]:
        """Return a split as a `pyarrow.Table` of no more than `limit` rows; after that to train on, the extra ones.

        Raises:
            DataError: if a table is missing, empty, or lacks one of `columns`.

        """
        first, *more = self._sources(split)
        table = first.table()
        check_columns(table, first, self.columns)
        found = [(self.share(table, split), first)]
        for source in more:
            table = source.table()
            check_columns(table, source, [name for name in self.columns if name not in self.label_columns])
            found.append((table, source))
        return [(table if self.limit is None else table.slice(0, self.limit), source) for table, source in found]

    def share(self, table: Any, split: str) -> Any:
        """Return a split's rows of its table: all, unless a subclass takes several splits from one table."""
        return table

    def _sources(self, split: str) -> list[Source]:
        return [self.sources[split], *(self.extra if split == "train" else [])]
