"""Hiding words for a model to guess: masked language modelling, anew in every epoch and the same in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from kd_lightning.core.errors import DataError
from kd_lightning.data.augment.base import check_probability
from kd_lightning.data.augment.rows import special_ids
from kd_lightning.data.tokens import TokenRows
from kd_lightning.functional.hard_label import IGNORED

STREAM, ONCE = 0x3A5C, 0x3A5D  # keep these draws apart from those of augmentations and orders

WORD_STARTS = ("Ġ", "▁")  # marks of pieces that begin a word, where others say nothing


class Masking:
    """Chooses tokens of a row, hides most of them, and returns what they were. Devlin et al. 2019, 1810.04805, A.1.

    A share of the tokens is chosen, at least one; special tokens never are. Of those, 80 % become the mask token, 10 %
    a random one, and 10 % stay as they are.

    Args:
        tokenizer: says what is special, and has a mask token.
        share: of the tokens that are chosen.
        masked: share of the chosen ones that become the mask token.
        random: share of the chosen ones that become another token.
        whole_word: choose words with all their pieces. Chinese characters are words of their own.

    Raises:
        DataError: shares that make no sense, a tokenizer without a mask token, or one that does not say where words
            begin.

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
                f"{type(tokenizer).__name__} does not say which of its pieces begin a word; leave whole_word out."
            )
        continues = ~starts
    return continues


class MaskedRows(Dataset[dict[str, Any]]):
    """Rows with tokens hidden; which ones is a function of (seed, epoch, row) alone.

    So a resumed run, other workers and other processes see the same. A row has `input_ids`; `labels`, what the hidden
    tokens were and −100 elsewhere; `logits_mask`, 1 where something is to be guessed; and `sample_id`.

    Args:
        rows: tokenised rows.
        masking: hides tokens.
        seed: with epoch and row, decides which; None hides the same in every epoch of every run, for validation.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> from kd_lightning.data.encode import encode
        >>> tokenizer = build_tokenizer(["a good film", "a bad plot"], vocab_size=60)
        >>> rows = encode(tokenizer, [["a good film a bad plot"]], np.array([0]), 16)
        >>> masked = MaskedRows(rows, Masking(tokenizer), seed=0)
        >>> [masked[0, epoch]["logits_mask"].tolist() for epoch in (0, 1)]
        [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]

    """

    def __init__(self, rows: TokenRows, masking: Masking, seed: int | None = None) -> None:
        self.rows = rows
        self.masking = masking
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return a row as it is in an epoch; key: (row, epoch), or the row where all epochs are alike."""
        row, epoch = key if isinstance(key, tuple) else (key, 0)
        place = [ONCE, row] if self.seed is None else [STREAM, self.seed, epoch, row]
        ids = self.rows.tokens(row)["input_ids"]
        hidden, labels = self.masking(np.asarray(ids), np.random.default_rng(place))
        mask = (labels != IGNORED).astype(np.int8)
        return {"input_ids": hidden, "labels": labels, "logits_mask": mask, "sample_id": int(row)}

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row."""
        return self.rows.lengths
