"""A vocabulary from nothing but the training text, for teachers that bring none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_tokenizer(texts: Iterable[str], max_length: int = 512, vocab_size: int = 8000, lowercase: bool = True) -> Any:
    """Train BERT-style word pieces on texts; Chinese characters become words of their own.

    The same texts give the same tokenizer in every process.

    Args:
        texts: the training texts.
        max_length: longest input of the model that will use it, in tokens.
        vocab_size: pieces at most, special ones included.
        lowercase: take capital letters for small ones, and accents away, as uncased BERT does; False where they tell
            something, as in names.

    Returns:
        A fast Transformers tokenizer.

    Example:
        >>> tokenizer = build_tokenizer(["a good film", "a bad film"], vocab_size=50)
        >>> tokenizer.tokenize("a good film")
        ['a', 'good', 'film']

    """
    from tokenizers import decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _splitter(lowercase)
    tokenizer.model = models.WordPiece(_vocabulary(list(texts), vocab_size, lowercase), unk_token="[UNK]")
    tokenizer.decoder = decoders.WordPiece()
    ids = {token: index for index, token in enumerate(SPECIAL)}  # they come first
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max(max_length, 512),
        **{f"{name}_token": token for name, token in names.items()},
    )


def _splitter(lowercase: bool) -> Any:
    """Return a tokenizer that cuts texts into words as BERT does, and knows none yet."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _vocabulary(texts: list[str], vocab_size: int, lowercase: bool) -> dict[str, int]:
    """Return word pieces by number.

    The trainer numbers pieces inside of words (`##x`) in no fixed order, and breaks ties by number. So all that one
    character makes is given to it, sorted.
    """
    from tokenizers import trainers

    tokenizer = _splitter(lowercase)
    alphabet, inside = _characters(tokenizer, texts, limit=vocab_size // 2)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _characters(tokenizer: Any, texts: list[str], limit: int) -> tuple[list[str], list[str]]:
    """Return the most frequent characters, and `##x` for those of them that continue a word, both sorted."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            counts.update(word)
            inside.update(word[1:])
    kept = sorted(sorted(counts), key=lambda character: -counts[character])[:limit]
    return sorted(kept), [f"##{character}" for character in sorted(inside & set(kept))]
