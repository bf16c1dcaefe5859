"""Students that start from weights on disk: a pretrained model, or a student saved earlier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.bigru import register
from kd_lightning.models.early_exit import PREFIX
from kd_lightning.models.heads import auto_class, build
from kd_lightning.models.hub import from_hub, model_folder
from kd_lightning.models.plain import transformers_class
from kd_lightning.models.shrink import Like, given

FOLDER = "as in student.name=DIR"
"""What an error advises where a student cannot be loaded."""


def pretrained(
    name: str,
    task: str = "sequence-classification",
    num_labels: int = 2,
    *,
    like: Like | None = None,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
    image_size: int | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Load a pretrained model with the head of a task, to distil into it or just to fine-tune it.

    Args:
        name: a hub name, a folder, or `pkg://package/folder`.
        task: the head, see `kd_lightning.models.heads.AUTO_CLASSES`.
        num_labels: classes of the head.
        like: unused, because the architecture is the pretrained one; accepted because every student builder is called
            with it.
        vocab_size: size of the tokenizer's vocabulary, which must not exceed the model's.
        pad_token_id, image_size: unused: the model's own are kept.
        options: for `from_pretrained`.

    Raises:
        ConfigError: if the task is unknown, the model cannot be found, its weights have other shapes (a head of another
            size: add `ignore_mismatched_sizes=True`), or its vocabulary is smaller than the tokenizer's.

    """
    try:
        model = from_hub(auto_class(task).from_pretrained, name, FOLDER, num_labels=num_labels, **options)
    except ConfigError as error:
        if not isinstance(error.__cause__, RuntimeError):  # which shapes that differ are
            raise
        raise ConfigError(
            f"The weights of '{name}' do not fit {num_labels} labels and the options given. For a new head of another "
            "size add ignore_mismatched_sizes=true."
        ) from error
    _check_vocabulary(name, model, vocab_size)
    return model


def saved(
    folder: str | Path,
    task: str = "sequence-classification",
    num_labels: int | None = None,
    *,
    like: Like | None = None,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
    image_size: int | Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Load a saved student with the head of a task; a head that was saved for the same task and labels is kept.

    DistilBERT (Sanh et al. 2019) and TinyBERT (Jiao et al. 2020) distil without a task first, and for a task second.

    Args:
        folder: what `kd.export` or `save_pretrained` wrote.
        task: the head, see `kd_lightning.models.heads.AUTO_CLASSES`.
        num_labels: classes of the head; the saved model's by default.
        like: unused, because the architecture is the saved one; accepted because every student builder is called with
            it.
        vocab_size: size of the tokenizer's vocabulary, which must not exceed the model's.
        pad_token_id, image_size: unused: the model's own are kept.
        options: fields of the configuration that describe the labels, such as `id2label` or `problem_type`.

    Raises:
        ConfigError: if the folder holds no model, the task is unknown, or the model's vocabulary is smaller than the
            tokenizer's.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> with TemporaryDirectory() as folder:
        ...     BertForMaskedLM(tiny).save_pretrained(folder)
        ...     type(saved(folder, task="token-classification", num_labels=5)).__name__
        'BertForTokenClassification'

    """
    register()
    name = str(model_folder(Path(folder).expanduser(), "student.path", "saved model"))
    config = from_hub(AutoConfig.from_pretrained, name)
    head = given(num_labels=num_labels) | options
    # Another number of labels makes a new head.
    opened_by = _exit_class(config, task) or auto_class(task)
    model = from_hub(opened_by.from_pretrained, name, **head, ignore_mismatched_sizes=True, dtype="float32")
    _check_vocabulary(name, model, vocab_size)
    names = options.get("id2label")
    unnamed = {number: f"LABEL_{number}" for number in config.id2label}
    same_labels = names is None or dict(config.id2label) in (dict(names), unnamed)
    if same_labels and type(model).__name__ in (config.architectures or ()):
        return model
    fresh = build(task, model.config)  # a head for another task, or as many labels with other names
    fresh.base_model.load_state_dict(model.base_model.state_dict())
    return fresh


def _exit_class(config: Any, task: str) -> Any:
    """Return the class of a saved model from which rows may leave early; None for any other, or another task's head."""
    name = next(iter(config.architectures or ()), "")
    is_one = task == "sequence-classification" and name.startswith(PREFIX)
    return transformers_class(name, "The saved model") if is_one else None


def _check_vocabulary(name: str, model: Any, vocab_size: int | None) -> None:
    if vocab_size is not None and vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"The student '{name}' has a vocabulary of {model.config.vocab_size}, but its tokenizer one of "
            f"{vocab_size}. Use its own tokenizer: data.tokenizer={name}."
        )
