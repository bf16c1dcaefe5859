"""Film reviews in a made-up language: a task for trying distillation with no files and no network."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.data.base import SELECTION
from kd_lightning.data.holdout import check_share, held_out
from kd_lightning.data.text.augmented_rows import Augmentations
from kd_lightning.data.text.module import TokenDataModule
from kd_lightning.data.text.tokens import Rows

FORMAT = 1  # of the language; in every fingerprint
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def _words(line: str) -> list[str]:
    return line.split()


GRADED = {
    3: _words("superb brilliant magnificent stunning masterful flawless"),
    2: _words("good great clever funny moving charming"),
    1: _words("decent pleasant fine nice watchable likeable"),
    -1: _words("slow bland flat clumsy uneven thin"),
    -2: _words("bad poor boring tedious shallow lazy"),
    -3: _words("awful dreadful horrible atrocious unbearable disastrous"),
}
ADJECTIVES = {word: grade for grade, words in GRADED.items() for word in words}
DEGREES = dict.fromkeys(_words("very extremely truly remarkably"), 2.0)
DEGREES |= dict.fromkeys(_words("slightly somewhat rather mildly"), 0.5)
NEGATIONS = _words("not never hardly")
FILM = _words("film movie plot script acting story direction cast ending dialogue")
OTHER = _words("popcorn seat queue weather coffee parking cinema ticket crowd trailer")
FILLERS = _words("frankly perhaps honestly tonight again somehow indeed apparently yesterday overall")
GLUE = _words("the was and but although or while , .")
WORDS = sorted({*ADJECTIVES, *DEGREES, *NEGATIONS, *FILM, *OTHER, *FILLERS, *GLUE})


def word_tokenizer(words: list[str] = WORDS, max_length: int = 64) -> Any:
    """Return a transformers tokenizer with one token per word, BERT's special tokens around them.

    Example:
        >>> word_tokenizer().tokenize("the plot was not good .")
        ['the', 'plot', 'was', 'not', 'good', '.']

    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


class SyntheticSentiment(TokenDataModule):
    """Does a made-up sentence praise the film? Two balanced classes; labels are noisy in training, exact in validation.

    A sentence has one or two clauses about the film and often one about something else, which is to be ignored. A
    clause grades its noun with adjectives of six strengths, which words of degree double or halve and negations turn
    round; `but` and `although` say which of two clauses counts more (`review` has the rules).
    No single word gives the answer away. A large model works the rules out from noisy labels sooner than a small one,
    and passes them on: what makes distillation worth the while.

    Args:
        train_size: training sentences.
        validation_size: validation sentences, none of them in training.
        label_noise: share of training labels that are turned round, from 0 to below 0.5.
        seed: decides the sentences, the noise and the order of training batches.
        tokenizer: None for one token per word of the language.
        max_length: tokens per row at most; the longest sentence has fewer than 48.
        loading: `batch_size`, `eval_batch_size`, `num_workers`, `pin_memory`, `group_by_length` and
            `pad_to_multiple_of`, as `TokenDataModule` describes them.
        limit: use only so many sentences of each split, for trying things.
        augment: random changes of training rows, such as `[Delete(0.1), ShortReorder()]`.
        holdout: share of the training sentences that is the split `selection`, with their noisy labels: checkpoints and
            settings are chosen on it, and validation is only reported.

    Raises:
        DataError: a size below one, a share that is none, or noise that leaves nothing to learn.

    Example:
        >>> data = SyntheticSentiment(train_size=100, validation_size=20)
        >>> data.setup()
        >>> data.sizes, sorted(next(iter(data.val_dataloader())))
        ({'train': 100, 'validation': 20}, ['attention_mask', 'input_ids', 'labels', 'sample_id'])

    """

    name = "synthetic"

    writes_predictions = False

    head = "sequence-classification"

    def __init__(
        self,
        train_size: int = 8000,
        validation_size: int = 1000,
        label_noise: float = 0.1,
        seed: int = 0,
        tokenizer: Any = None,
        max_length: int = 64,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        limit: int | None = None,
        pin_memory: bool | None = None,
        group_by_length: bool = True,
        pad_to_multiple_of: int | None = None,
        augment: Augmentations = None,
        holdout: float | None = None,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer or word_tokenizer(max_length=max_length),
            num_labels=2,
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
        sizes = [size if limit is None else min(limit, size) for size in (train_size, validation_size)]
        if min(sizes) < 1:
            raise DataError(f"Every split needs a sentence; got sizes {sizes[0]} and {sizes[1]}.")
        if not 0 <= label_noise < 0.5:
            raise DataError(f"label_noise is from 0 to below 0.5, where labels say nothing; got {label_noise}.")
        self.train_size, self.validation_size = sizes
        if holdout is not None:
            check_share(holdout, "training rows")
        self.label_noise = label_noise
        self.holdout = holdout

    @property
    def available_splits(self) -> Iterable[str]:
        """The splits there are: train, validation, and `selection` where that is held out."""
        return (*super().available_splits, *([SELECTION] if self.holdout is not None else []))

    @property
    def fingerprint(self) -> str:
        """Hash of the language, the sizes, the noise, the seed and the tokenizer; batch size and order do not count."""
        made_of: tuple[Any, ...] = (FORMAT, WORDS, self.train_size, self.validation_size, self.label_noise, self.seed)
        made_of += (("holdout", self.holdout),) if self.holdout is not None else ()
        return self.augmented_fingerprint(digest(made_of, self.max_length, self.tokenizer_fingerprints))

    def sentences(self, split: str) -> tuple[list[str], np.ndarray]:
        """Return a split's sentences and labels: 1 for praise, 0 for blame; some of training turned round."""
        validation = _reviews(Random(f"validation {self.seed}"), self.validation_size)
        if split == "validation":
            return list(validation), np.array(list(validation.values()))
        train = _reviews(Random(f"train {self.seed}"), self.train_size, without=validation)
        noise = np.random.default_rng(self.seed).random(self.train_size) < self.label_noise
        texts, labels = list(train), np.array(list(train.values())) ^ noise
        if self.holdout is None:
            return texts, labels
        kept = held_out(texts, self.holdout) == (split == SELECTION)
        return [text for text, stays in zip(texts, kept, strict=True) if stays], labels[kept]

    def texts(self, split: str = "train") -> list[str]:
        """Return all sentences of a split, such as a tokenizer is trained on."""
        return self.sentences(split)[0]

    def make_rows(self, split: str) -> Rows:
        """Return a split's tokenised rows; making them takes a fraction of a second."""
        texts, labels = self.sentences(split)
        return self.encode([texts], labels)


def _reviews(random: Random, size: int, without: Any = ()) -> dict[str, int]:
    """Return `size` different sentences with their true labels, half of them kind."""
    wanted = {1: size - size // 2, 0: size // 2}
    reviews: dict[str, int] = {}
    while len(reviews) < size:
        text, value = review(random)
        label = int(value > 0)
        if wanted[label] and text not in reviews and text not in without:
            reviews[text] = label
            wanted[label] -= 1
    return reviews


def review(random: Random) -> tuple[str, float]:
    """Return a sentence and its sentiment towards the film: above zero is praise, and it is never close to zero.

    A clause is `the NOUN was [not] [very] ADJECTIVE [or ADJECTIVE]`; its value is the sum of its adjectives' grades
    (-3 … 3), doubled or halved by a word of degree, and turned round and halved by a negation, which reaches to the end
    of its clause. Clauses about other things than the film say nothing. What follows `but` counts double, what follows
    `although` counts half. Fillers mean nothing.

    Example:
        >>> review(Random(0)) == review(Random(0))
        True

    """
    while True:
        words, value = _sentence(random)
        if abs(value) >= 0.5:
            return " ".join([*words, "."]), value


def _sentence(random: Random) -> tuple[list[str], float]:
    words, value = _clause(random, FILM)
    if random.random() < 0.5:
        second, other = _clause(random, FILM)
        link, weight = random.choice([("and", 1.0), ("but", 2.0), ("although", 0.5)])
        words, value = [*words, link, *second], value + weight * other
    if random.random() < 0.5:
        aside, _ = _clause(random, OTHER)
        words = [*aside, random.choice([",", "and"]), *words] if random.random() < 0.5 else [*words, "while", *aside]
    return words, value


def _clause(random: Random, nouns: list[str]) -> tuple[list[str], float]:
    words, value = _adjectives(random)
    if random.random() < 0.35:
        words, value = [random.choice(NEGATIONS), *words], -0.5 * value
    if random.random() < 0.2:
        words = [random.choice(FILLERS), *words]
    return ["the", random.choice(nouns), "was", *words], value


def _adjectives(random: Random) -> tuple[list[str], float]:
    words = [random.choice(list(ADJECTIVES))]
    value = float(ADJECTIVES[words[0]])
    if random.random() < 0.4:
        degree = random.choice(list(DEGREES))
        words, value = [degree, *words], DEGREES[degree] * value
    if random.random() < 0.2:
        another = random.choice(list(ADJECTIVES))
        words, value = [*words, "or", another], value + ADJECTIVES[another]
    return words, value
