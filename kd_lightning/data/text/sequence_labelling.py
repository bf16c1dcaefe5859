"""A tag for every word, such as named entities: from Parquet files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.data.readers import Row
from kd_lightning.data.text.sentences import OUTSIDE, Sentences, check_labels, read_sentences
from kd_lightning.data.text.sourced import TextDataModule
from kd_lightning.data.text.tagged_rows import Rebuilt, rebuild, sentence_of_row, tagged_rows, words_of
from kd_lightning.data.text.tokens import TokenRows
from kd_lightning.functional.hard_label import IGNORED

log = logging.getLogger(__name__)


class SequenceLabelling(TextDataModule):
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
        loading: further arguments of `TextDataModule`: where sentences come from and which are trained on beside
            them, and how batches are made. `unlabelled` text is cut into words, and Chinese into characters (see
            `words_of`); `augment` must stay empty, as changed tokens have no tags.

    Raises:
        DataError: at construction if settings contradict each other; in `setup` if a folder, file, column or tag is
            missing or does not fit, there are two tokenizers, or no word at all.

    Example:
        >>> data = SequenceLabelling("conll2003", labels=["O", "B-PER", "I-PER"], root="/nowhere")
        >>> data.num_labels, data.sizes
        (3, {})

    """

    token_fields = ("labels", "logits_mask")

    lowercase = False
    """A tokenizer that is made from this text keeps capital letters: they make names."""

    head = "token-classification"

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        tokens: str = "tokens",
        tags: str = "ner_tags",
        tokenizer: Any = None,
        **loading: Any,
    ) -> None:
        super().__init__(name=name, tokenizer=tokenizer, num_labels=len(labels), **loading)
        self.classes: list[str] = list(labels)
        self.tokens = tokens
        self.tags = tags
        check_labels(self.classes)
        if self.augment:
            raise DataError("Augmentations change tokens, and each tag belongs to one: leave out `augment`.")

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.tokens, self.tags]

    @property
    def label_columns(self) -> list[str]:
        """What extra data may lack."""
        return [self.tags]

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what rows are made of a table, besides tokenizer, `max_length` and `limit`."""
        return self.tokens, self.tags, self.classes, *self.renamed, *self.held_out

    def setup(self, stage: str | None = None) -> None:
        """Tokenise all splits, or find them tokenised; again only after the tokenizer was replaced.

        Raises:
            DataError: if there is no tokenizer, or two, or data is missing or does not fit.

        """
        self.check_one_tokenizer("Tags belong to the pieces of one tokenizer")
        super().setup(stage)

    def make_rows(self, split: str) -> TokenRows:
        """Return a split's tokenised rows from the cache, after putting them there if need be; logs what was cut."""
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
        """Return a split's rows, tokenised from its sentences."""
        return tagged_rows(self.tokenizer, self.sentences(split), self.max_length)

    @property
    def text_columns(self) -> list[str]:
        """The column with text, in tables without tags."""
        return [self.unlabelled_text]

    def without_labels(self, texts: list[Row]) -> TokenRows:
        """Return rows of texts without tags."""
        words = [words_of(text) for (text,) in texts]
        tags = [[IGNORED] * len(sentence) for sentence in words]
        return tagged_rows(self.tokenizer, Sentences(words, tags), self.max_length)

    def sentences(self, split: str) -> Sentences:
        """Return the words of a split's sentences, and the numbers of their tags: −100 where extra ones have none."""
        parts = [
            read_sentences(
                table, source, self.tokens, self.tags, self.classes, untagged=source is not self.sources[split]
            )
            for table, source in self.tables(split)
        ]
        found = Sentences.joined(parts)
        if not any(found.words):
            raise DataError(f"{self.sources[split]}, column '{self.tokens}' has no word in any row of this split.")
        return found

    def rebuild(self, split: str, rows: np.ndarray, tags: np.ndarray) -> Rebuilt:
        """Return the sentences whose rows are all among `rows`, with their tags and those predicted.

        Args:
            split: whose rows they are.
            rows: the numbers of the rows that were predicted.
            tags: the numbers of the predicted tags, where logits count, row after row.

        """
        tokens = self.rows(split)
        assert isinstance(tokens, TokenRows), "setup refuses two tokenizers"
        return rebuild(tokens.notes, rows, tags, self.classes, OUTSIDE)

    def texts(self, split: str = "train") -> list[str]:
        """Return a split's sentences, words with blanks between them, such as a tokenizer is trained on."""
        return [" ".join(words) for words in self.sentences(split).words]
