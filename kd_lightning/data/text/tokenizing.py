"""Texts → token rows; what identifies a tokenizer; a tokenizer made from nothing but texts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.data.text.tokens import TokenRows

CHUNK = 4096  # texts per call of the tokenizer
T = TypeVar("T")
FIELDS = {"input_ids": np.int32, "token_type_ids": np.int8}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def check_tokenizer(tokenizer: Any, max_length: int) -> None:
    """Refuse what is no tokenizer, or takes fewer tokens than asked for.

    Raises:
        DataError: as said.

    """
    if tokenizer is None:
        raise DataError("A text data module needs a tokenizer: pass tokenizer=… or set its attribute `tokenizer`.")
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        raise DataError(
            f"tokenizer is to be a transformers tokenizer, not {type(tokenizer).__name__};"
            " make one with AutoTokenizer.from_pretrained(…)."
        )
    if max_length > tokenizer.model_max_length:
        raise DataError(
            f"max_length={max_length} is more than the {tokenizer.model_max_length} tokens this tokenizer says its"
            " model takes; lower it, or set tokenizer.model_max_length if the model takes more."
        )


def check_room(tokenizer: Any, max_length: int, pair: bool) -> None:
    """Refuse rows that have room for special tokens only.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: tokens per row, special ones included.
        pair: rows are pairs of texts.

    Raises:
        DataError: as said.

    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise DataError(
            f"max_length={max_length} leaves no room for a text between the {special} special tokens of a row; give "
            f"data.max_length={special + 1} or, better, far more."
        )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of all that decides which ids a text becomes: vocabulary, rules, special tokens, truncation side.

    Where it was loaded from, and how it was last called, do not count.
    """
    rules = _rules(tokenizer)
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    fields = list(tokenizer.model_input_names)
    return digest(type(tokenizer).__name__, rules, special, fields, tokenizer.truncation_side)


def _rules(tokenizer: Any) -> Any:
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        return {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.name != "tokenizer_config.json")
        return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def encode(tokenizer: Any, texts: Sequence[Sequence[str]], labels: np.ndarray, max_length: int) -> TokenRows:
    """Tokenise rows, cutting each to `max_length` tokens.

    Args:
        tokenizer: a transformers tokenizer.
        texts: one list of texts, or two of equal length for pairs.
        labels: (rows,).
        max_length: tokens per row, special ones included; of a pair the longer text is cut first.

    """
    chunks = [flat(tokenize(tokenizer, columns, max_length)) for columns in in_chunks(texts)]
    return joined(chunks, labels)


def batched(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield some items at a time, of any number of them.

    Example:
        >>> list(batched("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]

    """
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def in_chunks(texts: Sequence[Sequence[str]]) -> Iterator[list[list[str]]]:
    """Yield the columns of some thousand rows at a time."""
    for start in range(0, len(texts[0]), CHUNK):
        yield [list(column[start : start + CHUNK]) for column in texts]


def tokenize(tokenizer: Any, columns: list[list[str]], max_length: int) -> Any:
    """Call a tokenizer on texts or pairs, without padding."""
    return tokenizer(*columns, truncation=True, max_length=max_length, padding=False, return_attention_mask=False)


def flat(encoded: Any) -> dict[str, np.ndarray]:
    """Return the token fields of rows end to end, and the rows' lengths."""
    fields = {
        name: np.fromiter((i for row in encoded[name] for i in row), dtype=kind)
        for name, kind in FIELDS.items()
        if name in encoded
    }
    return fields | {"lengths": np.array([len(row) for row in encoded["input_ids"]])}


def joined(chunks: Sequence[dict[str, np.ndarray]], labels: np.ndarray) -> TokenRows:
    """Return chunks of rows, as `flat` gives them, as one."""
    fields = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    offsets = np.concatenate([[0], np.cumsum(fields.pop("lengths"))])
    return TokenRows(fields, offsets, {"labels": labels})


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
