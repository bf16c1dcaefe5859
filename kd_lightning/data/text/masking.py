"""Hiding words for a model to predict: masked language modelling, other words in every epoch, the same in every run."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.rows import EpochRows
from kd_lightning.data.text.augment import check_probability
from kd_lightning.data.text.augmented_rows import special_ids
from kd_lightning.data.text.tokens import TokenRows
from kd_lightning.functional.hard_label import IGNORED

WORD_STARTS = ("Ġ", "▁")  # marks of pieces that begin a word, where others have no mark


class Masking:
    """Chooses tokens of a row, hides most of them, and returns what they were. Devlin et al. 2019, 1810.04805, A.1.

    A share of the tokens is chosen, at least one; special tokens never are. Of those, 80 % become the mask token, 10 %
    a random one, and 10 % stay as they are.

    Args:
        tokenizer: its special tokens are never chosen; it has a mask token.
        share: of the tokens that are chosen.
        masked: share of the chosen ones that become the mask token.
        random: share of the chosen ones that become another token.
        whole_word: choose words with all their pieces. Chinese characters are words of their own.

    Raises:
        DataError: if shares are not from 0 to 1, or the tokenizer has no mask token or, for `whole_word`, no mark for
            pieces that begin a word.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> tokenizer = build_tokenizer(["a good film", "a bad plot"], vocab_size=60)
        >>> ids = np.array(tokenizer("a good film a bad plot")["input_ids"])
        >>> hidden, labels = Masking(tokenizer, share=0.5, masked=1.0, random=0.0)(ids, np.random.default_rng(0))
        >>> tokenizer.decode(hidden), (labels != -100).sum()
        ('[CLS] a good [MASK] [MASK] bad [MASK] [SEP]', np.int64(3))

    """

    def __init__(
        self,
        tokenizer: Any,
        share: float = 0.15,
        masked: float = 0.8,
        random: float = 0.1,
        whole_word: bool = False,
    ) -> None:
        for name, value in (
            ("share", share),
            ("masked", masked),
            ("random", random),
            ("masked + random", masked + random),
        ):
            check_probability(name, value)
        if share == 0:
            raise DataError("share=0 would hide nothing, and there would be nothing to learn.")
        if tokenizer.mask_token_id is None:
            raise DataError(
                f"{type(tokenizer).__name__} has no mask token; use the tokenizer of a masked language model."
            )
        self.share, self.masked, self.random = share, masked, random
        self.mask_token = tokenizer.mask_token_id
        self.special = special_ids(tokenizer)
        self.words = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        self.continues = _continuations(tokenizer) if whole_word else None

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the row with tokens hidden (n,), and labels (n,): what they were, and −100 everywhere else."""
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        chosen = self._chosen(ids, random)
        labels[chosen] = ids[chosen]
        hidden, draws = ids.copy(), random.random(len(chosen))
        hidden[chosen[draws < self.masked]] = self.mask_token
        swapped = chosen[(self.masked <= draws) & (draws < self.masked + self.random)]
        hidden[swapped] = random.choice(self.words, len(swapped))
        return hidden, labels

    def _chosen(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the places of the chosen tokens: of whole words until there are enough."""
        places = np.flatnonzero(~np.isin(ids, self.special))
        if not len(places):
            return places
        words = self._word_numbers(ids, places)
        order = random.permutation(words[-1] + 1)
        tokens = np.cumsum(np.bincount(words)[order])
        enough = np.searchsorted(tokens, max(1, round(self.share * len(places)))) + 1
        return places[np.isin(words, order[:enough])]

    def _word_numbers(self, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        if self.continues is None:
            return np.arange(len(places))
        follows = self.continues[ids[places]] & (np.diff(places, prepend=-2) == 1)
        return np.maximum(np.cumsum(~follows) - 1, 0)


def _continuations(tokenizer: Any) -> np.ndarray:
    """Return which pieces of the vocabulary go on with the word before."""
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    continues = np.array([piece.startswith("##") for piece in pieces])
    if not continues.any():
        starts = np.array([piece.startswith(WORD_STARTS) for piece in pieces])
        if not starts.any():
            raise DataError(
                f"{type(tokenizer).__name__} has no mark for pieces that begin a word; leave whole_word out."
            )
        continues = ~starts
    return continues


class MaskedRows(EpochRows):
    """Rows with tokens hidden; which ones is a function of (seed, view, row) alone.

    So a resumed run, other workers and other processes get the same. A row has `input_ids`; `labels`, what the hidden
    tokens were and −100 elsewhere; `logits_mask`, 1 where something is to be guessed; and `sample_id`.

    Args:
        rows: tokenised rows.
        masking: hides tokens.
        seed: with view and row, decides which; None hides the same in every view of every run, for validation.
        views: number of views, for rows that come round.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> from kd_lightning.data.text.tokenizing import encode
        >>> tokenizer = build_tokenizer(["a good film", "a bad plot"], vocab_size=60)
        >>> rows = encode(tokenizer, [["a good film a bad plot"]], np.array([0]), 16)
        >>> masked = MaskedRows(rows, Masking(tokenizer), seed=0)
        >>> [masked[0, epoch]["logits_mask"].tolist() for epoch in (0, 1)]
        [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]

    """

    stream, once = 0x3A5C, 0x3A5D

    def __init__(self, rows: TokenRows, masking: Masking, seed: int | None = None, views: int | None = None) -> None:
        super().__init__(rows, seed or 0, views)
        self.masking = masking
        self.fixed = seed is None

    def random(self, row: int, view: int) -> np.random.Generator:
        """Return the generator of a row in a view; without a seed, the same in all."""
        return np.random.default_rng([self.once, row]) if self.fixed else super().random(row, view)

    def change(self, row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return a row with tokens hidden, and what they were."""
        hidden, labels = self.masking(np.asarray(row["input_ids"]), random)
        mask = (labels != IGNORED).astype(np.int8)
        return {"input_ids": hidden, "labels": labels, "logits_mask": mask, "sample_id": row["sample_id"]}
