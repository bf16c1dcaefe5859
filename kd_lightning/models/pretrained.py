"""A student that is a pretrained model as it is, with a new head."""

from __future__ import annotations

from typing import Any

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.heads import auto_class
from kd_lightning.models.hub import from_hub


def pretrained(
    like: Any = None,
    *,
    name: str,
    num_labels: int = 2,
    vocab_size: int | None = None,
    task: str = "sequence-classification",
    pad_token_id: int | None = None,
    **options: Any,
) -> Any:
    """Load a pretrained model with a new head, to distil into it or just to fine-tune it.

    Args:
        like: not looked at: this student is like nobody.
        name: a hub name, a folder, or `pkg://package/folder`.
        num_labels: classes of the head.
        vocab_size: pieces of the tokenizer that feeds it, checked against the model's.
        task: the head, see `tasks.AUTO_CLASSES`.
        pad_token_id: not looked at: the model knows its own.
        options: for `from_pretrained`.

    Raises:
        ConfigError: for a model that cannot be found, or one for a smaller vocabulary.

    """
    model = from_hub(auto_class(task).from_pretrained, name, num_labels=num_labels, **options)
    if vocab_size is not None and vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"The student '{name}' knows {model.config.vocab_size} pieces, but its tokenizer makes {vocab_size}. "
            f"Give it its own: data.tokenizer={name}."
        )
    return model
