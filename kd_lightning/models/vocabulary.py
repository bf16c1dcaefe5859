"""Initialising the word embeddings of a student with its own tokenizer from its teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.copy_layers import kept_units, narrowed

_ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


def transfer_vocabulary(teacher: nn.Module, student: nn.Module, teacher_tokenizer: Any, tokenizer: Any) -> int:
    """Initialise the student's word embeddings from the teacher's, token by token.

    Fast vocabulary transfer (Gee et al. 2022, 2022.emnlp-industry.41): a token of both vocabularies gets the teacher's
    embedding of it, another the mean over the tokens that the teacher's tokenizer splits it into. Special tokens get
    those of the same role. A narrower student keeps the units that `copy_layers` keeps.

    Args:
        teacher: a Transformers model.
        student: changed in place; tokens that the teacher cannot represent keep their own values.
        teacher_tokenizer: the teacher's.
        tokenizer: the student's.

    Returns:
        The number of the student's tokens that were initialised.

    Raises:
        ConfigError: if the student's embeddings are wider than the teacher's, or cannot be cut from them.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from kd_lightning.data.text.synthetic import word_tokenizer
        >>> theirs, ours = word_tokenizer(["good", "film"]), word_tokenizer(["film", "plot"])
        >>> sizes = {"vocab_size": 6, "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1}
        >>> teacher, student = BertModel(BertConfig(**sizes)), BertModel(BertConfig(**sizes))
        >>> transfer_vocabulary(teacher, student, theirs, ours)
        5
        >>> words = [model.embeddings.word_embeddings.weight for model in (teacher, student)]
        >>> torch.equal(words[0][5], words[1][4])
        True

    """
    models: tuple[Any, Any] = (teacher, student)
    source, target = (model.get_input_embeddings().weight.detach() for model in models)
    places = _places(teacher_tokenizer, tokenizer)
    rows = torch.stack([source[ids].float().mean(0) for ids in places.values()])
    fitting = narrowed(rows, torch.Size((len(rows), target.shape[1])), kept_units(teacher, student), table=True)
    if fitting is None:
        raise ConfigError(
            f"The student's words ({target.shape[1]} wide) cannot start from the teacher's ({source.shape[1]} wide). "
            "Leave student.layers null."
        )
    with torch.no_grad():
        target[list(places)] = fitting.to(target)
    return len(places)


def _places(teacher: Any, student: Any) -> dict[int, list[int]]:
    """Return for each of the student's tokens the teacher's tokens whose embeddings are averaged."""
    known, unknown = teacher.get_vocab(), teacher.unk_token_id
    roles = {getattr(student, f"{role}_token_id"): getattr(teacher, f"{role}_token_id") for role in _ROLES}
    places = {own: [other] for own, other in roles.items() if own is not None and other is not None}
    rest = {number: piece for piece, number in student.get_vocab().items() if number not in roles}
    texts = [_text(student, piece) for piece in rest.values()]
    split = teacher(texts, add_special_tokens=False)["input_ids"] if texts else []
    for (number, piece), ids in zip(rest.items(), split, strict=True):
        found = [known[piece]] if piece in known else [i for i in ids if i != unknown]
        if found:
            places[number] = found
    return places


def _text(tokenizer: Any, piece: str) -> str:
    """Return the text of a token, without the marks of its tokenizer (`##ing`, `Ġfilm`)."""
    return tokenizer.convert_tokens_to_string([piece]).removeprefix("##").strip() or piece
