"""What every data module of ours gives: resumable training batches, exact validation batches, sizes, a fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Subset

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.data.alignment import dual_tokenized_rows
from kd_lightning.data.augment.rows import Augmentations, AugmentedRows, as_list, bound, describe
from kd_lightning.data.dual_tokenized import DualTokenizedRows
from kd_lightning.data.encode import check_tokenizer, encode, tokenizer_fingerprint
from kd_lightning.data.loader import Loader
from kd_lightning.data.mixed import MixedBatches, MixedRows
from kd_lightning.data.padding import DualTokenizedPadding, Padding
from kd_lightning.data.sampler import Batches, EvalBatches, TrainBatches
from kd_lightning.data.splits import SPLITS, Collate, of_split
from kd_lightning.data.tokens import TokenRows

Rows: TypeAlias = TokenRows | DualTokenizedRows


class TokenDataModule(LightningDataModule):
    """Loaders over tokenised rows. A subclass says which rows a split has, and what they are made from.

    Batches are dicts of int64 tensors: `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer makes them
    (batch, longest row); `labels` and `sample_id`, the row's number within its split (batch,).

    Where the teacher has a tokenizer of its own, set the attribute `teacher_tokenizer` before `setup`: batches then
    have the token fields in two parts, `student` and `teacher`, each with `word_ids` that say which of its
    tokens belong to the same stretch of text (see `dual_tokenized_rows`).

    Args:
        tokenizer: a transformers tokenizer, the student's; may also be set as attribute before `setup`.
        num_labels: number of classes.
        max_length: tokens per row at most, special ones included.
        batch_size: training rows per batch and process.
        eval_batch_size: the same for validation and test; twice `batch_size` if None.
        seed: decides the order of training batches.
        num_workers: processes that make batches; 0 is fast enough for tokenised text.
        pin_memory: None for "where there is a GPU".
        group_by_length: put rows of similar length together.
        pad_to_multiple_of: round batch lengths up to a multiple.
        augment: random changes of training rows, one after the other; see `AugmentedRows`. Rows are grouped by the
            lengths they have before.

    """

    multilabel = False
    """Whether a row may have several labels, or none, instead of one."""

    made_for: str | None = None
    """Which head the rows are made for, of `kd_lightning.models.heads.AUTO_CLASSES`; None: whatever one."""

    unlabelled_ratio: float | None = None
    """Rows without labels for each labelled one, in every epoch; None: all of them once."""

    token_fields: tuple[str, ...] = ()
    """What rows have one of for every token beside the tokenizer's own: of `padding.LIKE_TOKENS`."""

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        num_labels: int,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        group_by_length: bool = True,
        pad_to_multiple_of: int | None = None,
        augment: Augmentations = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.teacher_tokenizer: Any = None
        self.num_labels = num_labels
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.group_by_length = group_by_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.augment = as_list(augment)
        self._rows: dict[str, Rows] = {}
        self._taught: Rows | MixedRows | None = None
        self._made_with: Any = None

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits there are, of `SPLITS`."""
        return SPLITS[:2]

    @property
    def head(self) -> dict[str, Any]:
        """What the configuration of a model for this data says of its labels."""
        problem = "multi_label_classification" if self.multilabel else None  # None: what the labels say
        return {"num_labels": self.num_labels, "problem_type": problem}

    def check_one_tokenizer(self, why: str) -> None:
        """Refuse two tokenizers: the data's or the student's own, or those of several tasks' teachers.

        Args:
            why: begins the sentence.

        Raises:
            DataError: with what student and teachers must have in common.

        """
        if self.teacher_tokenizer is not None:
            sizes = f"{len(self.tokenizer)} and {len(self.teacher_tokenizer)} pieces"
            raise DataError(
                f"{why}, and here student and teacher have different vocabularies ({sizes}): choose a student and "
                "teachers, of all tasks, with the same one, and no other in data.tokenizer."
            )

    def recorder(self) -> Any:
        """Return what notes a model's predictions in the data set's own format, a `BatchMetric`; None: nothing."""
        return None

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count."""
        raise NotImplementedError

    def make_rows(self, split: str) -> Rows:
        """Return the tokenised rows of a split, for one tokenizer or two."""
        raise NotImplementedError

    def make_unlabelled(self) -> Rows | None:
        """Return rows without labels, for the teacher to label, if there are to be any."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: no tokenizer, or data that is missing or does not fit.

        """
        tokenizers = (self.tokenizer, self.teacher_tokenizer)
        check_tokenizer(self.tokenizer, self.max_length)
        bound(self.augment, self.tokenizer)  # what the tokenizer lacks is said here, not in the first epoch
        if self.teacher_tokenizer is not None:
            check_tokenizer(self.teacher_tokenizer, self.max_length)
            if self.augment:
                raise DataError(
                    "Augmentations change tokens, and two tokenizers have different ones: leave out `augment`, or give "
                    "student and teacher one tokenizer (data.tokenizer)."
                )
        if self._made_with != tokenizers:
            self._rows = {split: self.make_rows(split) for split in self.available_splits}
            others = self.make_unlabelled()
            self._taught = MixedRows(self._rows["train"], others) if others is not None else None
            self._made_with = tokenizers

    def encode(self, texts: Sequence[Sequence[str]], labels: np.ndarray) -> Rows:
        """Tokenise texts, or pairs in two columns, for the one tokenizer or for both."""
        if self.teacher_tokenizer is None:
            return encode(self.tokenizer, texts, labels, self.max_length)
        return dual_tokenized_rows(self.tokenizer, self.teacher_tokenizer, texts, labels, self.max_length)

    @property
    def tokenizer_fingerprints(self) -> list[str]:
        """Hashes of all that decides which ids a text becomes: one, or two where the teacher has its own tokenizer."""
        made_with = (self.tokenizer, self.teacher_tokenizer)
        return [tokenizer_fingerprint(tokenizer) for tokenizer in made_with if tokenizer is not None]

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split, and how many there are without labels; empty before `setup`."""
        sizes = {split: len(rows) for split, rows in self._rows.items()}
        return sizes if self._taught is None else sizes | {"unlabelled": len(self._taught) - sizes["train"]}

    def train_dataloader(self) -> Loader:
        """Return shuffled batches, resumable in mid-epoch."""
        return self.loader(self.train_rows(), self.train_batches())

    def rows_once(self, rows: np.ndarray | None = None) -> Loader:
        """Return a loader that gives training rows once each, as they are: what a teacher cache is built from.

        Args:
            rows: their numbers; None: all.

        """
        train = self.taught
        kept = np.arange(len(train)) if rows is None else np.asarray(rows)
        batches = EvalBatches(train.lengths[kept], self.eval_batch_size, self.group_by_length)
        return self.loader(Subset(train, kept.tolist()), batches)

    @property
    def taught(self) -> Rows | MixedRows:
        """All rows a student may be trained on: the training split, and after it those without labels."""
        rows = self.rows("train")
        return rows if self._taught is None else self._taught

    def train_batches(self) -> TrainBatches:
        """Return which training rows make which batch."""
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        rows, order = self.taught, {"shuffle": not overfit, "with_epoch": bool(self.augment)}
        settings: dict[str, Any] = {"seed": self.seed, "group_by_length": self.group_by_length, **order}
        if isinstance(rows, MixedRows):
            mixture: dict[str, Any] = {"labelled": len(rows.labelled), "ratio": self.unlabelled_ratio}
            return MixedBatches(rows.lengths, self.batch_size, **mixture, **settings)
        return TrainBatches(rows.lengths, self.batch_size, **settings)

    def train_rows(self) -> Any:
        """Return the training rows, augmented if that is wanted."""
        rows = self.taught
        if not self.augment:
            return rows
        assert not isinstance(rows, DualTokenizedRows), "setup refuses two tokenizers"
        return AugmentedRows(rows, self.augment, self.tokenizer, self.seed)

    def val_dataloader(self) -> Loader | list[Any]:
        """Return each validation row once."""
        return self.eval_loader("validation")

    def test_dataloader(self) -> Loader | list[Any]:
        """Return each test row once."""
        return self.eval_loader("test")

    def eval_loader(self, split: str) -> Loader | list[Any]:
        """Return each row of a split once; nothing where there is none. Batches of others than validation say whose."""
        if split not in self.available_splits:
            return []
        return self.loader(self.eval_rows(split), self.eval_batches(split), of_split(self.collate, split))

    def eval_rows(self, split: str) -> Any:
        """Return the rows of a split as they are evaluated."""
        return self.rows(split)

    def eval_batches(self, split: str) -> EvalBatches:
        """Return which rows of a split make which batch."""
        return EvalBatches(self.rows(split).lengths, self.eval_batch_size, self.group_by_length)

    def rows(self, split: str) -> Rows:
        """Return the tokenised rows of a split.

        Raises:
            DataError: there is no such split.

        """
        if split not in self.available_splits:
            raise DataError(f"This data has no '{split}' split; it has {', '.join(self.available_splits)}.")
        if not self._rows:
            self.setup()
        return self._rows[split]

    def _augmented(self, fingerprint: str) -> str:
        """Return the fingerprint of rows with these augmentations; without any, it stays what it is."""
        return digest(fingerprint, describe(self.augment)) if self.augment else fingerprint

    @property
    def collate(self) -> Collate:
        """What makes a batch of rows."""
        own = Padding.of(self.tokenizer, self.pad_to_multiple_of, self.token_fields)
        if self.teacher_tokenizer is None:
            return own
        return DualTokenizedPadding(own, Padding.of(self.teacher_tokenizer, self.pad_to_multiple_of))

    def loader(self, rows: Any, batches: Batches, collate: Collate | None = None) -> Loader:
        """Return a loader with this module's settings."""
        return Loader(
            rows,
            batches,
            collate or self.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )
