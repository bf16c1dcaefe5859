"""Token rows with random changes in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import code_identity
from kd_lightning.data.mixed import MixedRows
from kd_lightning.data.rows import EpochRows
from kd_lightning.data.text.augment import Augmentation
from kd_lightning.data.text.tokens import TokenRows

FIELDS = {"input_ids", "token_type_ids"}

Augmentations: TypeAlias = Augmentation | Sequence[Augmentation] | Mapping[str, Augmentation] | None


class AugmentedRows(EpochRows):
    """Rows after augmentations, one after the other; what a row becomes is a function of (seed, view, row) alone.

    So a resumed run, other workers and other processes get the same. Each text of a row is changed by itself: special
    tokens ([CLS], [SEP], …) stay where they are, tokens never move from one text of a pair to the other, and each text
    keeps its `token_type_ids`. Unknown and mask tokens are parts of a text. Labels stay as they are.

    Args:
        rows: tokenised rows of texts.
        augment: the augmentations, in this order.
        tokenizer: made the rows; its special tokens stay.
        seed: with view and row, decides what happens.
        views: number of views, for rows whose views repeat.

    Raises:
        DataError: if the tokenizer lacks what an augmentation needs, or tokens have fields that cannot follow them.

    Example:
        >>> from kd_lightning.data import Delete
        >>> from kd_lightning.data.text.synthetic import word_tokenizer
        >>> ids = np.array([2, 10, 11, 12, 13, 3])  # [CLS], four words, [SEP]
        >>> rows = TokenRows({"input_ids": ids}, np.array([0, 6]), {"labels": np.array([1])})
        >>> augmented = AugmentedRows(rows, [Delete(0.5)], word_tokenizer(), seed=0)
        >>> [augmented[0, view]["input_ids"].tolist() for view in (0, 1, 1)]
        [[2, 12, 3], [2, 10, 12, 13, 3], [2, 10, 12, 13, 3]]

    """

    def __init__(
        self,
        rows: TokenRows | MixedRows,
        augment: Sequence[Augmentation],
        tokenizer: Any,
        seed: int = 0,
        views: int | None = None,
    ) -> None:
        super().__init__(rows, seed, views)
        self.fields = list((rows.labelled if isinstance(rows, MixedRows) else rows).fields)
        if others := set(self.fields) - FIELDS:
            raise DataError(f"Augmentations cannot change a row's {', '.join(sorted(others))} along with its tokens.")
        self.augment = bound(augment, tokenizer)
        self.special = special_ids(tokenizer)

    def change(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return what becomes of a row."""
        pieces = [self._changed(row, piece, random) for piece in self._pieces(row["input_ids"])]
        names = self.fields if pieces else ()
        return row | {name: np.concatenate([piece[name] for piece in pieces]) for name in names}

    def _pieces(self, ids: np.ndarray) -> Iterator[tuple[slice, bool]]:
        """Yield the texts of a row and what is between them, with whether it is text."""
        special = np.isin(ids, self.special)
        starts = [0, *(np.flatnonzero(special[1:] != special[:-1]) + 1).tolist()] if len(ids) else []
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=False):
            yield slice(start, end), not special[start]

    def _changed(self, example: Mapping[str, Any], piece: tuple[slice, bool], random: Any) -> dict[str, np.ndarray]:
        place, is_text = piece
        old = {name: example[name][place] for name in self.fields}
        if not is_text:
            return old
        ids = old["input_ids"]
        for augmentation in self.augment:
            ids = augmentation(ids, random)
        types = {name: np.repeat(values[:1], len(ids)) for name, values in old.items()}  # one type throughout a text
        return types | {"input_ids": ids.astype(old["input_ids"].dtype, copy=False)}


def as_list(augment: Augmentations) -> list[Augmentation]:
    """Return augmentations in their order, without their names; what is null is left out.

    Raises:
        DataError: if something is no augmentation.

    """
    if isinstance(augment, Augmentation):
        return [augment]
    values = list(augment.values() if isinstance(augment, Mapping) else augment or ())
    for value in values:
        if value is not None and not isinstance(value, Augmentation):
            raise DataError(f"augment takes augmentations, such as kd.data.Mask(0.1), but got {value!r}.")
    return [value for value in values if value is not None]


def bound(augment: Sequence[Augmentation], tokenizer: Any) -> list[Augmentation]:
    """Return augmentations with the ids of the tokenizer.

    Raises:
        DataError: if the tokenizer lacks what one needs.

    """
    return [augmentation.bind(tokenizer) for augmentation in augment]


def special_ids(tokenizer: Any) -> np.ndarray:
    """Return the ids that mark the structure of a row: all special tokens but the unknown and the mask token."""
    marks = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "sep", "pad", "cls")]
    words = {tokenizer.unk_token_id, tokenizer.mask_token_id} - set(marks)  # GPT-2's unknown token also ends texts
    return np.array(sorted(set(tokenizer.all_special_ids) - words))


def describe(augment: Sequence[Augmentation]) -> list[Any]:
    """Return what augmentations are, for a fingerprint."""
    return [[a.key or code_identity(type(a)), vars(a)] for a in augment]
