"""What every data module of ours gives: resumable training batches, exact validation batches, sizes, a fingerprint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from kd_lightning.data.augment.rows import Augmentations, AugmentedRows, as_list, bound, describe
from kd_lightning.data.encode import check_tokenizer, digest
from kd_lightning.data.loader import Loader
from kd_lightning.data.padding import Padding
from kd_lightning.data.sampler import Batches, EvalBatches, TrainBatches
from kd_lightning.data.tokens import TokenRows
from kd_lightning.errors import DataError

SPLITS = ("train", "validation", "test")


class TokenDataModule(LightningDataModule):
    """Loaders over tokenised rows. A subclass says which rows a split has, and what they are made from.

    Batches are dicts of int64 tensors: `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer makes them
    (batch, longest row); `labels` and `sample_id`, the row's number within its split (batch,).

    Args:
        tokenizer: a transformers tokenizer; may also be set as attribute before `setup`.
        num_labels: number of classes.
        max_length: tokens per row at most.
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

    def __init__(
        self,
        *,
        tokenizer: Any,
        num_labels: int,
        max_length: int,
        batch_size: int,
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
        self._rows: dict[str, TokenRows] = {}
        self._made_with: Any = None

    @property
    def splits_here(self) -> Iterable[str]:
        """The splits there are, of `train`, `validation` and `test`."""
        return SPLITS[:2]

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that was done to it; batch size and order do not count."""
        raise NotImplementedError

    def make_rows(self, split: str) -> TokenRows:
        """Return the tokenised rows of a split."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: no tokenizer, or data that is missing or does not fit.

        """
        check_tokenizer(self.tokenizer, self.max_length)
        bound(self.augment, self.tokenizer)  # what the tokenizer lacks is said here, not in the first epoch
        if self._made_with is not self.tokenizer:
            self._rows = {split: self.make_rows(split) for split in self.splits_here}
            self._made_with = self.tokenizer

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split; empty before `setup`."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def train_dataloader(self) -> Loader:
        """Return shuffled batches, resumable in mid-epoch."""
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        rows: Any = self._split("train")
        if self.augment:
            rows = AugmentedRows(rows, self.augment, self.tokenizer, self.seed)
        order = {"shuffle": not overfit, "with_epoch": bool(self.augment)}
        return self._loader(rows, TrainBatches(rows.lengths, self.batch_size, self.seed, self.group_by_length, **order))

    def val_dataloader(self) -> Loader | list[Any]:
        """Return each validation row once."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> Loader | list[Any]:
        """Return each test row once."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> Loader | list[Any]:
        if split not in self.splits_here:
            return []
        rows = self._split(split)
        return self._loader(rows, EvalBatches(rows.lengths, self.eval_batch_size, self.group_by_length))

    def _split(self, split: str) -> TokenRows:
        if split not in self.splits_here:
            raise DataError(f"This data has no '{split}' split; it has {', '.join(self.splits_here)}.")
        if not self._rows:
            self.setup()
        return self._rows[split]

    def _augmented(self, fingerprint: str) -> str:
        """Return the fingerprint of rows with these augmentations; without any, it stays what it is."""
        return digest(fingerprint, describe(self.augment)) if self.augment else fingerprint

    def _loader(self, rows: Any, batches: Batches) -> Loader:
        return Loader(
            rows,
            batches,
            Padding.of(self.tokenizer, self.pad_to_multiple_of),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )
