"""Masked language modelling on any text: what students are trained on before a task."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data.base import SELECTION
from kd_lightning.data.holdout import log_both
from kd_lightning.data.text.masking import MaskedRows, Masking
from kd_lightning.data.text.module import TokenDataModule
from kd_lightning.data.text.origin import Origin
from kd_lightning.data.text.tokenizing import CHUNK, batched, check_tokenizer
from kd_lightning.data.text.tokens import TokenRows

log = logging.getLogger(__name__)

FORMAT = 2  # of the files in the cache; in every fingerprint


class LanguageModelling(TokenDataModule):
    """Text as rows full of tokens, some of them hidden for a model to guess.

    Documents are packed end to end into rows of `max_length` tokens, once, and kept on disk. Which tokens are hidden
    changes from epoch to epoch and is a function of (seed, view, row); in validation it is always the same, whatever
    the seed.

    Batches have `input_ids` with tokens hidden, `labels` (what they were, −100 elsewhere) and `logits_mask` (1 where a
    token is to be guessed): (batch, length). Logits are distilled at those places, hidden states at all.

    Args:
        path: a text file, a folder of them, or with `root` the name of a data set; see `Texts.find`. None: the hub.
        name: the text's name, for messages and the cache.
        text: the column of tables that has the text.
        root: a folder of data sets.
        hub: a data set's name on the Hugging Face hub, such as `Salesforce/wikitext`.
        subset: the hub's configuration name, such as `wikitext-103-raw-v1`.
        validation: text to validate on, as `path`. None: the file `validation.*` beside `train.*`, or on the hub the
            split of this name; where there is none, `holdout`.
        holdout: share of the documents that is held out; they are chosen by what is in them and never trained on. Where
            there is text to validate on, they are the split `selection`: checkpoints and settings are chosen on it, and
            validation is only reported. Else they are validated on, 0.05 if None.
        tokenizer: a transformers tokenizer with a mask token; may also be set as attribute before `setup`.
        share: of the tokens that are hidden.
        whole_word: hide words with all their pieces.
        limit: use only the first rows of each split, for trying things.
        cache_dir: where packed rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: further arguments of `TokenDataModule`: how long rows are and how batches are made. `augment` must stay
            empty: hiding tokens is what changes rows.

    Raises:
        DataError: if settings contradict each other; in `setup` if text is missing, damaged or too little.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from kd_lightning.data import build_tokenizer
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "train.txt").write_text("a good film\\n\\na bad plot\\n" * 50)
        ...     _ = (Path(folder) / "validation.txt").write_text("a good plot")
        ...     data = LanguageModelling(folder, max_length=16, cache_dir=folder)
        ...     data.tokenizer = build_tokenizer(data.texts())
        ...     batch = next(iter(data.val_dataloader()))
        >>> data.sizes, batch["labels"].tolist()
        ({'train': 25, 'validation': 1}, [[-100, 12, -100, -100, -100]])

    """

    token_fields = ("labels", "logits_mask")

    head = "masked-lm"

    def __init__(
        self,
        path: str | Path | None = None,
        name: str = "text",
        text: str = "text",
        root: str | Path | None = None,
        hub: str | None = None,
        subset: str | None = None,
        validation: str | Path | None = None,
        holdout: float | None = None,
        tokenizer: Any = None,
        share: float = 0.15,
        whole_word: bool = False,
        limit: int | None = None,
        cache_dir: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(tokenizer=tokenizer, num_labels=2, **loading)  # as of any Transformers model; it has no effect
        self.origin = Origin(path, text, root, hub, subset, validation, holdout)
        self.name = name
        self.share = share
        self.whole_word = whole_word
        self.limit = limit
        self.cache_dir = cache_dir
        if self.augment:
            raise DataError("Hidden tokens are what changes rows of a masked language model: leave `augment` out.")
        if limit is not None and limit < 1:
            raise DataError(f"limit is a number of rows, at least 1; got {limit}.")

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits there are: train, validation, and `selection` where that is held out."""
        held = self.origin.holdout is not None and self.origin.held_split == SELECTION
        return (*super().available_splits, *([SELECTION] if held else []))

    @property
    def fingerprint(self) -> str:
        """Hash of the text and of all that was done to it; batch size and order do not count. Needs the tokenizer."""
        return digest([self._key(split) for split in self.available_splits], self.share, self.whole_word)

    def setup(self, stage: str | None = None) -> None:
        """Pack all splits, or find them packed.

        Raises:
            DataError: if there is no tokenizer, one without a mask token, or two, or text that cannot be read.

        """
        self.check_one_tokenizer("Teacher and student guess the same hidden tokens")
        check_tokenizer(self.tokenizer, self.max_length)
        self.masking()  # what the tokenizer lacks is an error before texts are packed
        super().setup(stage)
        if self.origin.held_split == "validation":
            log_both(self.name, self.origin.share, "documents")

    def masking(self) -> Masking:
        """Return what hides tokens."""
        return Masking(self.tokenizer, self.share, whole_word=self.whole_word)

    def make_rows(self, split: str) -> TokenRows:
        """Return a split's packed rows from the cache, after putting them there if need be."""
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-{split}-{self._key(split)}"
        built = build_once(folder, lambda scratch: self._packed(split).save(scratch))
        rows = TokenRows.open(folder)
        log.info("%s %s: %d rows, %s %s.", self.name, split, len(rows), "packed into" if built else "reused", folder)
        return rows

    def texts(self, split: str = "train") -> list[str]:
        """Return all lines of a split, such as a tokenizer is trained on."""
        return [line for document in self.origin.documents(split) for line in document]

    @property
    def varies(self) -> bool:
        """Whether training rows differ from epoch to epoch: always."""
        return True

    def train_dataset(self) -> MaskedRows:
        """Return the training rows with other tokens hidden in every epoch."""
        return MaskedRows(self._token_rows("train"), self.masking(), self.seed, self.views)

    def eval_dataset(self, split: str) -> MaskedRows:
        """Return the rows of a split, the same tokens hidden every time."""
        return MaskedRows(self._token_rows(split), self.masking())

    def _token_rows(self, split: str) -> TokenRows:
        rows = self.rows(split)
        assert isinstance(rows, TokenRows), "setup refuses two tokenizers"
        return rows

    def _packed(self, split: str) -> TokenRows:
        chunks, lengths, number = [], [], 0
        for rows in packed(self.tokenizer, self.origin.documents(split), self.max_length):
            rows = rows[: None if self.limit is None else self.limit - number]
            chunks.append(rows.ravel())
            lengths += [rows.shape[1]] * len(rows)
            number += len(rows)
            if number == self.limit:
                break
        if not number:
            raise DataError(self.origin.nothing_in(split))
        return TokenRows({"input_ids": np.concatenate(chunks)}, np.cumsum([0, *lengths]), {})

    def _key(self, split: str) -> str:
        """Hash of everything that shapes a split's rows."""
        check_tokenizer(self.tokenizer, self.max_length)
        return digest(FORMAT, self.origin.identity(split), self.tokenizer_fingerprints, self.max_length, self.limit)


AS_IT_IS = {"add_special_tokens": False, "truncation": False, "return_attention_mask": False, "verbose": False}


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a text, and what parts two documents within a row.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> Frame.of(build_tokenizer(["a film"], vocab_size=20))
        Frame(before=(2,), after=(3,), between=(3,))

    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """Look at what a tokenizer makes of a single word."""
        encoded = tokenizer("a", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        first = special.index(0) if 0 in special else len(ids)
        last = len(ids) - special[::-1].index(0) if 0 in special else len(ids)
        parting = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        return cls(tuple(ids[:first]), tuple(ids[last:]), () if parting is None else (parting,))


def packed(tokenizer: Any, documents: Iterable[list[str]], max_length: int) -> Iterator[np.ndarray]:
    """Yield rows of `max_length` tokens, the last one shorter, that hold all documents end to end: (rows, tokens).

    Every row is framed as the tokenizer frames a text ([CLS] … [SEP]). A document that does not fit goes on in the next
    row; where a new one begins within a row, the separating token comes first. Nothing is cut off.

    Args:
        tokenizer: a transformers tokenizer.
        documents: lines each.
        max_length: tokens per row, special ones included.

    Raises:
        DataError: if rows are too short to hold anything.

    Example:
        >>> from kd_lightning.data import build_tokenizer
        >>> tokenizer = build_tokenizer(["a film", "a plot"], vocab_size=40)
        >>> rows = [row for rows in packed(tokenizer, [["a film a film"], ["a plot"]], 7) for row in rows]
        >>> [tokenizer.decode(row) for row in rows]
        ['[CLS] a film a film [SEP] [SEP]', '[CLS] a plot [SEP]']

    """
    frame = Frame.of(tokenizer)
    width = max_length - len(frame.before) - len(frame.after)
    if width < 1:
        raise DataError(f"max_length={max_length} leaves no room for text between the tokenizer's special tokens.")
    rest = np.zeros(0, np.int32)
    for ids in _streams(tokenizer, documents, frame.between):
        stream = np.concatenate([rest, ids])
        whole = len(stream) // width * width
        if whole:
            yield _framed(stream[:whole].reshape(-1, width), frame)
        rest = stream[whole:]
    if len(rest) > len(frame.between):  # else nothing but the last document's end
        yield _framed(rest[None, : len(rest) - len(frame.between)], frame)


def _streams(tokenizer: Any, documents: Iterable[list[str]], between: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the tokens of some documents at a time, each followed by what parts them."""
    for some in batched(documents, CHUNK // 8):
        lines = [line for document in some for line in document]
        ids = iter(tokenizer(lines, **AS_IT_IS)["input_ids"])
        tokens = (chain(*(next(ids) for _ in document), between) for document in some)
        yield np.fromiter(chain.from_iterable(tokens), dtype=np.int32)


def _framed(rows: np.ndarray, frame: Frame) -> np.ndarray:
    around = [np.tile(np.array(ids, np.int32), (len(rows), 1)) for ids in (frame.before, frame.after)]
    return np.concatenate([around[0], rows, around[1]], axis=1)
