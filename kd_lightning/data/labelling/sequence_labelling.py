"""A tag for every word, such as named entities: from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_lightning.data.augment.rows import Augmentations
from kd_lightning.data.labelling.rebuilt import Rebuilt, rebuild, sentence_of_row
from kd_lightning.data.labelling.tags import OUTSIDE, Sentences, check_labels, read_sentences
from kd_lightning.data.labelling.words import IGNORED, tagged_rows, words_of
from kd_lightning.data.reading.text_formats import Row
from kd_lightning.data.sourced import SourcedDataModule
from kd_lightning.data.tokens import TokenRows
from kd_lightning.errors import DataError
from kd_lightning.metrics import EntityScores

log = logging.getLogger(__name__)


class SequenceLabelling(SourcedDataModule):
    """Sentences of words, or of characters, with a tag for each: named entities in the BIO scheme.

    Batches have, besides the tokens, `labels` (a word's tag at its first piece, −100 elsewhere) and `logits_mask`
    (1 at first pieces), both (batch, length). A sentence that is longer than a row becomes several that overlap; each
    of its words counts once, in the row where most is left and right of it. Words of which the tokenizer makes nothing
    are taken for `O` when scored. How rows make up sentences is in their `notes` (see `tagged_rows`).

    Args:
        name: the data set's name; with `root`, its folder.
        labels: the names of the tags, `O` among them.
        tokens: the column with a list of words.
        tags: the column with a list of tags, one per word: names, or numbers of the names the hub has for them, or of
            `labels` where it has none.
        tokenizer: a fast transformers tokenizer; may also be set as attribute before `setup`.
        root: read `root/<name>/<split>.parquet`; None reads the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name.
        splits: what `train`, `validation` and, if wanted, `test` are called there.
        max_length: tokens per row at most.
        limit: use only the first sentences of each split, for trying things.
        cache_dir: where tokenised rows are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: `batch_size`, `eval_batch_size`, `seed`, `num_workers`, `pin_memory`, `group_by_length` and
            `pad_to_multiple_of`, as `TokenDataModule` describes them.
        augment: nothing; changed tokens have no tags.
        extra: further data sets of the same columns and tags to train on: `NAME`, `NAME/SPLIT` or `FILE.parquet`; see
            `extra_source`.
        extra_hubs: where those are on the hub: by name, `hub` and `subset`.
        unlabelled: text to train on beside the tagged sentences, for a teacher to tag: a file, a folder, or the name of
            a data set below `root`. Its lines are cut into words, and Chinese into characters (see `words_of`).
        unlabelled_ratio: lines of it for each tagged sentence in every epoch; None for all of them.
        unlabelled_text: the column of tables that has its text.

    Raises:
        DataError: at construction for settings that make no sense; in `setup` for a folder, file, column or tag that
            is missing or does not fit, and for two tokenizers.

    Example:
        >>> data = SequenceLabelling("conll2003", labels=["O", "B-PER", "I-PER"], root="/nowhere")
        >>> data.num_labels, data.sizes
        (3, {})

    """

    token_fields = ("labels", "logits_mask")

    lowercase = False
    """A tokenizer that is made from this text tells capital letters: they make names."""

    made_for = "token-classification"

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        tokens: str = "tokens",
        tags: str = "ner_tags",
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
        extra: str | Sequence[str] | None = None,
        extra_hubs: Mapping[str, Any] | None = None,
        unlabelled: str | Path | None = None,
        unlabelled_ratio: float | None = None,
        unlabelled_text: str = "text",
    ) -> None:
        super().__init__(
            name=name,
            root=root,
            hub=hub,
            subset=subset,
            splits=splits,
            limit=limit,
            cache_dir=cache_dir,
            extra=extra,
            extra_hubs=extra_hubs,
            unlabelled=unlabelled,
            unlabelled_ratio=unlabelled_ratio,
            unlabelled_text=unlabelled_text,
            tokenizer=tokenizer,
            num_labels=len(labels),
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
        self.labels = list(labels)
        self.tokens = tokens
        self.tags = tags
        check_labels(self.labels)
        if self.augment:
            raise DataError("Augmentations change tokens, and each tag belongs to one: leave out `augment`.")

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.tokens, self.tags]

    @property
    def shaped_by(self) -> tuple[Any, ...]:
        """The settings that shape rows, besides tokenizer, `max_length` and `limit`."""
        return self.tokens, self.tags, self.labels

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: no tokenizer or two, or data that is missing or does not fit.

        """
        self.check_one_tokenizer("Tags belong to the pieces of one tokenizer")
        super().setup(stage)

    def make_rows(self, split: str) -> TokenRows:
        """Return a split's tokenised rows from the cache, after putting them there if need be; says what was cut."""
        rows = super().make_rows(split)
        assert isinstance(rows, TokenRows), "setup refuses two tokenizers"
        counts = np.bincount(sentence_of_row(rows.notes))
        if sentences := counts[counts > 1].size:
            message = "%s %s: %d of %d sentences are longer than %d tokens and became %d rows that overlap."
            whole, became = len(rows.notes["sentences"]) - 1, counts[counts > 1].sum()
            log.info(message, self.name, split, sentences, whole, self.max_length, became)
        if words := len(rows.notes["cut"]):
            log.info("%s %s: words longer than a row, of which it has the beginning: %d.", self.name, split, words)
        return rows

    def tokenise(self, split: str) -> TokenRows:
        """Return a split's rows, made anew from its sentences."""
        return tagged_rows(self.tokenizer, self.sentences(split), self.max_length)

    @property
    def text_columns(self) -> list[str]:
        """The column with text, in tables without tags."""
        return [self.unlabelled_text]

    def without_labels(self, texts: list[Row]) -> TokenRows:
        """Return rows of texts that nobody has tagged."""
        words = [words_of(text) for (text,) in texts]
        tags = [[IGNORED] * len(sentence) for sentence in words]
        return tagged_rows(self.tokenizer, Sentences(words, tags), self.max_length)

    def sentences(self, split: str) -> Sentences:
        """Return the words of a split's sentences, and the numbers of their tags."""
        return read_sentences(self.table(split), self.sources[split], self.tokens, self.tags, self.labels)

    def rebuild(self, split: str, rows: np.ndarray, tags: np.ndarray) -> Rebuilt:
        """Return the sentences whose rows are all among `rows`, with their tags and those they were given.

        Args:
            split: whose rows they are.
            rows: the numbers of the rows that were predicted.
            tags: the numbers of the predicted tags, where logits count, row after row.

        """
        tokens = self.rows(split)
        assert isinstance(tokens, TokenRows), "setup refuses two tokenizers"
        return rebuild(tokens.notes, rows, tags, self.labels, OUTSIDE)

    def recorder(self) -> EntityScores:
        """Return what writes predictions in CoNLL's columns."""
        return EntityScores(self)

    @property
    def head(self) -> dict[str, Any]:
        """What the configuration of a model for this data says of its labels."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return super().head | {"id2label": {n: label for label, n in numbers.items()}, "label2id": numbers}

    def texts(self, split: str = "train") -> list[str]:
        """Return a split's sentences, words with blanks between them, such as a tokenizer is trained on."""
        return [" ".join(words) for words in self.sentences(split).words]
