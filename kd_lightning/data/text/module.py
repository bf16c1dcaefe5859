"""Data modules over tokenised text: one tokenizer, or two where the teacher has another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.data.loader import Collate
from kd_lightning.data.rows import RowDataModule
from kd_lightning.data.text.alignment import dual_tokenized_rows
from kd_lightning.data.text.augmented_rows import Augmentations, AugmentedRows, as_list, bound, describe
from kd_lightning.data.text.padding import DualTokenizedPadding, Padding
from kd_lightning.data.text.tokenizing import build_tokenizer, check_tokenizer, encode, tokenizer_fingerprint
from kd_lightning.data.text.tokens import DualTokenizedRows, Rows
from kd_lightning.models.hub import load_tokenizer


class TokenDataModule(RowDataModule):
    """Loaders over tokenised rows. A subclass writes how a split becomes rows (`make_rows`) and its `texts`.

    Batches are dicts of int64 tensors: `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer makes them
    (batch, longest row); `labels` and `sample_id`, the row's number within its split (batch,).

    Where the teacher has a tokenizer of its own (`teacher_tokenizer`, set before `setup`), batches have the token
    fields in two parts, `student` and `teacher`, each with `word_ids` that number which of its tokens belong to the
    same stretch of text (see `dual_tokenized_rows`).

    Args:
        tokenizer: a transformers tokenizer, the student's; may also be set as attribute before `setup`.
        num_labels: number of classes.
        max_length: tokens per row at most, special ones included.
        pad_to_multiple_of: round batch lengths up to a multiple.
        augment: random changes of training rows, one after the other; see `AugmentedRows`. Rows are grouped by the
            lengths they have before.
        loading: further arguments of `RowDataModule`: how batches are made.

    """

    needs_processor = True
    processor_key = "tokenizer"

    token_fields: tuple[str, ...] = ()
    """What rows have one of for every token beside the tokenizer's own: of `padding.LIKE_TOKENS`."""

    lowercase: bool = True
    """Whether a tokenizer made from the training text takes capital letters for small ones."""

    max_length: int

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        num_labels: int | None = None,
        max_length: int = 128,
        pad_to_multiple_of: int | None = None,
        augment: Augmentations = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.processor = tokenizer
        if num_labels is not None:
            self.num_labels = num_labels
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.augment = as_list(augment)

    @property
    def tokenizer(self) -> Any:
        """The student's tokenizer: `processor` by the name that text has for it."""
        return self.processor

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.processor = tokenizer

    @property
    def teacher_tokenizer(self) -> Any:
        """The teacher's tokenizer, where it is another one: `teacher_processor` by the name that text has for it."""
        return self.teacher_processor

    @teacher_tokenizer.setter
    def teacher_tokenizer(self, tokenizer: Any) -> None:
        self.teacher_processor = tokenizer

    def texts(self, split: str = "train") -> list[str]:
        """Return all texts of a split, such as a tokenizer is trained on."""
        raise NotImplementedError

    def load_processor(self, name: str) -> Any:
        """Return the tokenizer of a model on the hub or in a folder, or for `train` one made from the training text.

        Raises:
            ConfigError: if there is no such tokenizer.

        """
        if name == "train":
            return build_tokenizer(self.texts("train"), self.max_length or 0, lowercase=self.lowercase)
        return load_tokenizer(name)

    def interchangeable(self, one: Any, other: Any) -> bool:
        """Return whether two tokenizers have the same vocabulary, so that one batch is for both their models."""
        return one.get_vocab() == other.get_vocab()

    def describe_processor(self, processor: Any) -> str:
        """Return the number of a tokenizer's pieces."""
        return f"{len(processor)} pieces"

    def check_one_tokenizer(self, why: str) -> None:
        """Check that there are no two tokenizers: the data's or the student's own, or those of several tasks' teachers.

        Args:
            why: begins the sentence.

        Raises:
            DataError: if there are two, with what student and teachers must have in common.

        """
        if self.teacher_tokenizer is not None:
            sizes = f"{len(self.tokenizer)} and {len(self.teacher_tokenizer)} pieces"
            raise DataError(
                f"{why}, and here student and teacher have different vocabularies ({sizes}): choose a student and "
                "teachers, of all tasks, with the same one, and no other in data.tokenizer."
            )

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: if there is no tokenizer, or data is missing or does not fit.

        """
        check_tokenizer(self.tokenizer, self.max_length)
        bound(self.augment, self.tokenizer)  # what the tokenizer lacks is an error here, not in the first epoch
        if self.teacher_tokenizer is not None:
            check_tokenizer(self.teacher_tokenizer, self.max_length)
            if self.augment:
                raise DataError(
                    "Augmentations change tokens, and two tokenizers have different ones: leave out `augment`, or give "
                    "student and teacher one tokenizer (data.tokenizer)."
                )
        super().setup(stage)

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

    def augmented_fingerprint(self, fingerprint: str) -> str:
        """Return the fingerprint of rows with these augmentations; without any, it stays what it is."""
        return digest(fingerprint, describe(self.augment)) if self.augment else fingerprint

    @property
    def varies(self) -> bool:
        """Whether training rows differ from epoch to epoch."""
        return bool(self.augment) or super().varies

    @property
    def augmentation(self) -> Any:
        """What changes training rows, as JSON-like settings."""
        return describe(self.augment) if self.augment else super().augmentation

    def train_dataset(self) -> Any:
        """Return the training rows as a view has them: augmented, where they are."""
        rows = self.train_rows
        if not self.augment:
            return super().train_dataset()
        assert not isinstance(rows, DualTokenizedRows), "setup refuses two tokenizers"
        return AugmentedRows(rows, self.augment, self.tokenizer, self.seed, self.views)

    @property
    def collate(self) -> Collate:
        """What makes a batch of rows."""
        own = Padding.of(self.tokenizer, self.pad_to_multiple_of, self.token_fields)
        if self.teacher_tokenizer is None:
            return own
        return DualTokenizedPadding(own, Padding.of(self.teacher_tokenizer, self.pad_to_multiple_of))
