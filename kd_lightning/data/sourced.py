"""What data modules share whose rows come from files or the hub: tokenised once, kept under a fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data.base import Rows, TokenDataModule
from kd_lightning.data.dual_tokenized import DualTokenizedRows
from kd_lightning.data.encode import batched, check_tokenizer
from kd_lightning.data.mixed import stacked
from kd_lightning.data.reading.extra import extra_source
from kd_lightning.data.reading.files import Source, check_columns
from kd_lightning.data.reading.text_formats import Row
from kd_lightning.data.reading.texts import Texts
from kd_lightning.data.splits import SPLITS
from kd_lightning.data.tokens import TokenRows

log = logging.getLogger(__name__)

FORMAT = 3  # of the files in the cache; in every fingerprint
EXTRA = 2  # the same, of rows with extra ones behind them


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
        splits: what `train`, `validation` and, if wanted, others of `SPLITS` are called there.
        rename: columns that have another name there: `{premise: sentence1}`; passed over where they have the one here.
        limit: use only the first rows of each split, and of each extra data set, for trying things.
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        extra: further data sets of the same columns to train on: `NAME`, `NAME/SPLIT` or `FILE.parquet`, as
            `extra_source` finds them; rows without labels are for the teacher to label. Each is read by the names that
            it has for its own labels, where it has some.
        extra_hubs: where those are on the hub, by name.
        unlabelled: text to train on beside the labelled rows, for a teacher to label: a file, a folder, or the name of
            a data set below `root`; see `Texts`. Its labels are −100, which no hard-label loss counts.
        unlabelled_ratio: rows of it for each labelled one, in every epoch, all once before any comes again; None: all
            of them in every epoch.
        unlabelled_text: the column that has its text, in tables without the columns of this data set.
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
        extra: str | Sequence[str] | None = None,
        extra_hubs: Mapping[str, Any] | None = None,
        unlabelled: str | Path | None = None,
        unlabelled_ratio: float | None = None,
        unlabelled_text: str = "text",
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.root = root
        self.rename = dict(rename or {})
        self.unlabelled = unlabelled
        self.unlabelled_ratio = unlabelled_ratio
        self.unlabelled_text = unlabelled_text
        self.name = name
        self.limit = limit
        self.cache_dir = cache_dir
        self.sources = {
            split: Source(name, stem, root, hub, subset, split, self.rename)
            for split, stem in (splits or {"train": "train", "validation": "validation"}).items()
        }
        named = [extra] if isinstance(extra, str) else list(extra or ())
        self.extra = [replace(extra_source(one, root, extra_hubs), rename=self.rename) for one in named]
        if limit is not None and limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {limit}.")
        if unlabelled_ratio is not None and not 0 < unlabelled_ratio < float("inf"):
            raise DataError(
                f"unlabelled_ratio is rows for each labelled one, a number above 0; got {unlabelled_ratio}."
            )
        for split in self.sources:
            if split not in SPLITS:
                raise DataError(f"There is no use for a split called '{split}'. {hint(split, SPLITS)}")
        self._check_extra()

    def _check_extra(self) -> None:
        """Refuse to train on what is evaluated."""
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
    def shaped_by(self) -> tuple[Any, ...]:
        """The settings that shape rows, besides tokenizer, `max_length` and `limit`."""
        raise NotImplementedError

    @property
    def renamed(self) -> tuple[Any, ...]:
        """What `shaped_by` says of `rename`: nothing where it is empty."""
        return (sorted(self.rename.items()),) if self.rename else ()

    def tokenise(self, split: str) -> Rows:
        """Return a split's rows, made anew from its `tables`."""
        raise NotImplementedError

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits that were named."""
        return self.sources

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count. Needs the tokenizer."""
        keys = [self._key(split) for split in sorted(self.sources)]
        keys += [self._unlabelled_key(self._others())] if self.unlabelled is not None else []
        return self._augmented(digest(keys))

    def make_rows(self, split: str) -> Rows:
        """Return a split's tokenised rows from the cache, after putting them there if need be."""
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-{split}-{self._key(split)}"
        return self._kept(folder, split, lambda: self.tokenise(split))

    def _kept(self, folder: Path, what: str, make: Callable[[], Rows]) -> Rows:
        built = build_once(folder, lambda scratch: make().save(scratch))
        rows: Rows = TokenRows.open(folder) if self.teacher_tokenizer is None else DualTokenizedRows.open(folder)
        log.info("%s %s: %d rows, %s %s.", self.name, what, len(rows), "tokenised into" if built else "reused", folder)
        return rows

    def without_labels(self, texts: list[Row]) -> Rows:
        """Return rows of texts that nobody has labelled, tuples of one text per column.

        Raises:
            DataError: there can be none for such a task.

        """
        raise DataError(f"{type(self).__name__} has no use for text without labels: leave out `unlabelled`.")

    def make_unlabelled(self) -> Rows | None:
        """Return the rows without labels from the cache, after putting them there if need be."""
        if self.unlabelled is None:
            return None
        texts = self._others()
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-unlabelled-{self._unlabelled_key(texts)}"
        return self._kept(folder, "unlabelled", lambda: self._tokenise_others(texts))

    def _others(self) -> Texts:
        assert self.unlabelled is not None
        return Texts.find(self.unlabelled, self.root, "train", self.unlabelled_text)

    def _tokenise_others(self, texts: Texts) -> Rows:
        rows = islice(texts.rows(self.text_columns), self.limit)
        return stacked([self.without_labels(some) for some in batched(rows)])

    def _unlabelled_key(self, texts: Texts) -> str:
        made_with = (self.tokenizer_fingerprints, self.max_length, self.limit)
        return digest(FORMAT, texts.identity(), self.text_columns, *self.shaped_by, made_with)

    @property
    def text_columns(self) -> Sequence[str]:
        """Those of the columns that have texts."""
        return self.columns[:1]

    def tables(self, split: str) -> list[tuple[Any, Source]]:
        """Return a split as a `pyarrow.Table` of no more than `limit` rows; after that to train on, the extra ones.

        Raises:
            DataError: it is missing, empty, or lacks one of `columns`.

        """
        first, *more = self._sources(split)
        table = first.table()
        check_columns(table, first, self.columns)
        found = [(self.share(table, split), first), *((self._extra_table(source), source) for source in more)]
        return [(table if self.limit is None else table.slice(0, self.limit), source) for table, source in found]

    def _extra_table(self, source: Source) -> Any:
        table = source.table()
        check_columns(table, source, [name for name in self.columns if name not in self.label_columns])
        return table

    def share(self, table: Any, split: str) -> Any:
        """Return a split's rows of its table; all, where a subclass does not say otherwise."""
        return table

    def _sources(self, split: str) -> list[Source]:
        return [self.sources[split], *(self.extra if split == "train" else [])]

    def _key(self, split: str) -> str:
        """Hash of everything that shapes a split's rows."""
        check_tokenizer(self.tokenizer, self.max_length)
        made_with = (self.tokenizer_fingerprints, self.max_length, self.limit)
        first, *more = (source.identity([*self.columns, *self.optional]) for source in self._sources(split))
        return digest(FORMAT, first, *self.shaped_by, made_with, *([EXTRA, *more] if more else []))
