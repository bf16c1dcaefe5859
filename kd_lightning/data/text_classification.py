"""Classification of texts or pairs of texts, from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.data.augment.rows import Augmentations
from kd_lightning.data.base import SPLITS, Rows, TokenDataModule
from kd_lightning.data.encode import check_tokenizer
from kd_lightning.data.files import Source, columns_of
from kd_lightning.data.paired import PairedRows
from kd_lightning.data.tokens import TokenRows
from kd_lightning.errors import DataError, hint
from kd_lightning.storage.digest import digest
from kd_lightning.storage.once import build_once, cache_root

log = logging.getLogger(__name__)

FORMAT = 2  # of the files in the cache; in every fingerprint


class TextClassification(TokenDataModule):
    """A data set of texts, or pairs of texts, with one label each, or with any number of labels.

    Rows are tokenised once and kept, without padding, under a fingerprint of the data, the tokenizer and the settings;
    later runs and other processes map the same files.

    Args:
        name: the data set's name; with `root`, its folder.
        text: the column with the text, or the two columns of a pair.
        label: the column with the label, an integer from 0. With `multilabel`: the column with a list of such integers,
            or one column of 0 and 1 per label.
        num_labels: number of classes.
        tokenizer: a transformers tokenizer; may also be set as attribute before `setup`.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, `test` are called there.
        max_length: tokens per row at most.
        limit: use only the first rows of each split, for trying things.
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: `batch_size`, `eval_batch_size`, `seed`, `num_workers`, `pin_memory`, `group_by_length` and
            `pad_to_multiple_of`, as `TokenDataModule` describes them.
        multilabel: a row may have several labels, or none; `labels` of a batch is then float, 0 or 1: (batch, labels).
        augment: random changes of training rows, such as `[Mask(0.1), Delete(0.1)]`; not of what is kept on disk.

    Raises:
        DataError: at construction for settings that make no sense; in `setup` for a folder, file, column or label that
            is missing or does not fit.

    Example:
        >>> data = TextClassification("sst2", text="sentence", root="/nowhere", limit=100)
        >>> data.num_labels, data.sizes
        (2, {})

    """

    def __init__(
        self,
        name: str,
        text: str | Sequence[str],
        label: str | Sequence[str] = "label",
        num_labels: int = 2,
        tokenizer: Any = None,
        root: str | Path | None = None,
        hub: str | None = None,
        subset: str | None = None,
        splits: Mapping[str, str] | None = None,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        limit: int | None = None,
        cache_dir: str | Path | None = None,
        pin_memory: bool | None = None,
        group_by_length: bool = True,
        pad_to_multiple_of: int | None = None,
        augment: Augmentations = None,
        multilabel: bool = False,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            num_labels=num_labels,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
            group_by_length=group_by_length,
            pad_to_multiple_of=pad_to_multiple_of,
            augment=augment,
        )
        self.name = name
        self.text = [text] if isinstance(text, str) else list(text)
        self.label = label if isinstance(label, str) else list(label)
        self.multilabel = multilabel
        self.limit = limit
        self.cache_dir = cache_dir
        self.sources = {
            split: Source(name, stem, root, hub, subset)
            for split, stem in (splits or {"train": "train", "validation": "validation"}).items()
        }
        self._check()

    def _check(self) -> None:
        if len(self.text) not in (1, 2):
            raise DataError(f"text names one column, or two for pairs; got {self.text}.")
        if not isinstance(self.label, str) and not self.multilabel:
            raise DataError(f"label names columns {self.label}: several labels per row need multilabel=True.")
        if not isinstance(self.label, str) and len(self.label) != self.num_labels:
            raise DataError(f"label names {len(self.label)} columns, one per label, but num_labels={self.num_labels}.")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {self.limit}.")
        for split in self.sources:
            if split not in SPLITS:
                raise DataError(f"There is no use for a split called '{split}'. {hint(split, SPLITS)}")

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
        built = build_once(folder, lambda scratch: self._tokenise(split).save(scratch))
        rows: Rows = TokenRows.open(folder) if self.teacher_tokenizer is None else PairedRows.open(folder)
        log.info("%s %s: %d rows, %s %s.", self.name, split, len(rows), "tokenised into" if built else "reused", folder)
        return rows

    def texts(self, split: str = "train") -> list[str]:
        """Return all texts of a split, such as a tokenizer is trained on; the two of a pair follow each other."""
        columns, _ = self._read(split)
        return [text for row in zip(*columns, strict=True) for text in row]

    def _tokenise(self, split: str) -> Rows:
        return self.encode(*self._read(split))

    def _read(self, split: str) -> Any:
        source = self.sources[split]
        table = source.table()
        table = table if self.limit is None else table.slice(0, self.limit)
        return columns_of(table, source, self.text, self.label, self.num_labels, self.multilabel)

    def _key(self, split: str) -> str:
        """Hash of everything that shapes a split's rows."""
        check_tokenizer(self.tokenizer, self.max_length)
        labels = [self.label] if isinstance(self.label, str) else self.label
        identity = self.sources[split].identity([*self.text, *labels])
        made_with = (self.tokenizer_fingerprints, self.max_length, self.limit)
        return digest(FORMAT, identity, self.text, self.label, self.num_labels, made_with)
