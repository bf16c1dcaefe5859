"""Data modules whose rows are read from tables: files of one's own, Parquet data sets, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.base import SELECTION, SPLITS
from kd_lightning.data.holdout import check_share, held_out, log_both
from kd_lightning.data.readers import find_place, find_splits
from kd_lightning.data.rows import RowDataModule
from kd_lightning.data.sources import Source, check_columns, extra_source

FORMAT = 3  # of prepared rows; in every fingerprint
EXTRA = 2  # the same, of rows with extra ones behind them
HOLDOUT = 0.1  # share of the training rows, where there is nothing else to validate on


class SourcedDataModule(RowDataModule):
    """Loaders over rows that are read from files, data sets in a folder, or the Hugging Face hub.

    A subclass names the columns it reads (`columns`) and the settings that decide its rows (`cache_key_fields`), and
    makes rows of a split's `tables` in `make_rows`.

    Args:
        name: the data set's name; with `root`, its folder.
        path: a file of training rows (Parquet, CSV, TSV, JSON Lines, JSON); or a folder with files such as `train.csv`
            and `validation.csv`, or with a folder of text files per class (columns `text` and `label`), in which the
            splits may be folders of their own; see `readers.find_splits`. Instead of `root` and `hub`.
        validation: the file or folder of the validation split, beside `path`.
        holdout: share of the training rows that is held out. Where there is a validation split, or else a test split,
            of other rows, they are the split `selection`: checkpoints, epochs and settings are chosen on it, and the
            other is only reported. Without either they are the validation split; 0.1 where a `path` has none. Which
            rows is decided by a hash of their content without labels, so it is the same in every run, and rows of the
            same content are on the same side.
        format: of the files of `path`: `csv`, `tsv`, `jsonl`, `json` or `parquet`; None: by their suffix.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, others of `SPLITS` are called there.
        rename: columns that have another name there: `{premise: sentence1}`; passed over where they have the one here.
        limit: use only the first rows of each split, and of each extra data set, for trying things. Rows for selection
            are held out of the first training rows.
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
        path: str | Path | None = None,
        validation: str | Path | None = None,
        holdout: float | None = None,
        format: str | None = None,
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
        self.path = path
        self.root = root
        self.rename = dict(rename or {})
        self.limit = limit
        self.holdout = holdout
        stems = dict(splits or {"train": "train", "validation": "validation"})
        for split in stems:
            if split not in SPLITS:
                raise DataError(f"There is no use for a split called '{split}'. {hint(split, SPLITS)}")
        if path is None:
            self.sources = {
                split: Source(name, stem, root, hub, subset, split, self.rename) for split, stem in stems.items()
            }
        else:
            self.sources = self._in_files(path, validation, stems, format)
        if validation is not None and path is None:
            raise DataError(
                f"data.validation={validation} is a file to validate on: it goes with data.path, the file of training "
                "rows."
            )
        self.held_split = self._hold_out(typed=holdout is not None)
        named = [extra] if isinstance(extra, str) else list(extra or ())
        self.extra = [replace(extra_source(one, root, extra_hubs), rename=self.rename) for one in named]
        if limit is not None and limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {limit}.")
        self._check_extra()

    def _in_files(
        self, path: str | Path, validation: str | Path | None, stems: Mapping[str, str], kind: str | None
    ) -> dict[str, Source]:
        """Return the splits of a file or folder; what it lacks for validation is held out of the training rows."""
        found = find_splits(find_place(path, self.root), {name: name for name in SPLITS} | dict(stems), kind)
        if validation is not None:
            found["validation"] = find_place(validation, self.root)
        for split, stem in stems.items():
            if split not in found and stem != split:
                raise DataError(f"{path} has no file {stem}.* for the {split} split (data.splits.{split}={stem}).")
        if "validation" not in found and self.holdout is None:
            self.holdout = HOLDOUT
            found["validation"] = found["train"]
        return {
            split: Source(self.name, place.stem, split=split, rename=self.rename, path=place, format=kind)
            for split, place in found.items()
        }

    def _hold_out(self, typed: bool) -> str | None:
        """Return which split the held-out rows are, None without `holdout`, and read it from the training rows."""
        if self.holdout is None:
            return None
        check_share(self.holdout, "training rows")
        train = self.sources["train"]
        others = {name: one for name, one in self.sources.items() if name == "train" or not one.is_same(train)}
        held = SELECTION if typed and {"validation", "test"} & set(others) else "validation"
        self.sources = (others if held == SELECTION else self.sources) | {held: train}
        return held

    def _check_extra(self) -> None:
        """Check that no extra rows are those of a split that is evaluated, nor the training rows once more."""
        for split, source in self.sources.items():
            same = next((one for one in self.extra if split != "train" and one.is_same(source)), None)
            if same is not None:
                raise DataError(
                    f"data.extra has {same}, from which the {split} split is read: a student would be trained on "
                    "what it is evaluated on. Leave it out, or type data.extra=[NAME/SPLIT] to take another split."
                )
        for number, one in enumerate(self.extra):
            if any(map(one.is_same, [self.sources["train"], *self.extra[:number]])):
                raise DataError(f"data.extra has {one}, which is trained on already: leave it out.")

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
    def text_columns(self) -> Sequence[str]:
        """Those of the columns that are text, whatever they look like in a CSV file."""
        return ()

    @property
    def held_out(self) -> tuple[Any, ...]:
        """The part of `cache_key_fields` for `holdout`: nothing where there is none."""
        return (("holdout", self.holdout),) if self.holdout is not None else ()

    @property
    def renamed(self) -> tuple[Any, ...]:
        """The part of `cache_key_fields` for `rename`: nothing where that is empty."""
        return (sorted(self.rename.items()),) if self.rename else ()

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits that were named, and the one that is held out of the training rows."""
        return self.sources

    def setup(self, stage: str | None = None) -> None:
        """Make the rows of all splits; again only after a processor was replaced."""
        super().setup(stage)
        if self.held_split == "validation" and self.holdout is not None:
            log_both(self.name, self.holdout, "training rows")

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
        table = first.table(self.text_columns)
        check_columns(table, first, self.columns)
        table = self.before_holdout(table, split)
        found = [(table if self.held_split is None else table.filter(self.share(table, split)), first)]
        for source in more:
            table = source.table(self.text_columns)
            check_columns(table, source, [name for name in self.columns if name not in self.label_columns])
            found.append((table, source))
        return [(table if self.limit is None else table.slice(0, self.limit), source) for table, source in found]

    def row_numbers(self, split: str) -> np.ndarray | None:
        """Return where in the file each row of a split is; of a folder, its file; None: they are the first rows."""
        source = self.sources[split]
        if self.holdout is None and not source.is_folder:
            return None
        own = self.before_holdout(source.table(self.text_columns), split)
        numbers = np.flatnonzero(self.share(own, split))[: self.limit]
        return np.array(source.file_names)[numbers] if source.is_folder else numbers

    def before_holdout(self, table: Any, split: str) -> Any:
        """Return the rows of a split's table that `share` divides: with `limit` and `selection` the first ones."""
        first = self.limit is not None and self.held_split == SELECTION and split in ("train", SELECTION)
        return table.slice(0, self.limit) if first else table

    def share(self, table: Any, split: str) -> np.ndarray:
        """Return which rows of its table are a split's, (rows,): all, unless there is a `holdout`.

        Raises:
            DataError: if there is nothing left to train on.

        """
        if self.holdout is None or split not in ("train", self.held_split):
            return np.ones(table.num_rows, dtype=bool)
        held = held_out(self.holdout_keys(table), self.holdout)
        if held.all():
            instead = "give data.validation=FILE" if self.held_split == "validation" else "leave data.holdout out"
            source = self.sources["train"]
            raise DataError(f"{source} has too few different rows to hold out {self.holdout:g} of them: {instead}.")
        return held if split == self.held_split else ~held

    def holdout_keys(self, table: Any) -> list[str]:
        """Return what decides on which side of `holdout` each row is: its content without labels."""
        columns = [table[name].to_pylist() for name in self.columns if name not in self.label_columns]
        return [repr(row) for row in zip(*columns, strict=True)]

    def _sources(self, split: str) -> list[Source]:
        return [self.sources[split], *(self.extra if split == "train" else [])]
