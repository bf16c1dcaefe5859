"""Which Transformers class has the head of a task."""

from __future__ import annotations

from typing import Any

import transformers

from kd_lightning.core.errors import ConfigError, hint

AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "masked-lm": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "feature-extraction": "AutoModel",
}
"""Task → name of the Auto class; values of the argument `task` of every student builder."""


def auto_class(task: str) -> Any:
    """Return the Transformers Auto class of a task.

    Raises:
        ConfigError: if the task is unknown.

    Example:
        >>> auto_class("masked-lm").__name__
        'AutoModelForMaskedLM'

    """
    if task not in AUTO_CLASSES:
        raise ConfigError(f"Unknown task '{task}'. {hint(task, AUTO_CLASSES)}")
    return getattr(transformers, AUTO_CLASSES[task])


def build(task: str, config: Any) -> Any:
    """Build a randomly initialised float32 model of `config` with the head of `task`.

    Raises:
        ConfigError: if the task is unknown, or the architecture has no such head.

    """
    auto = auto_class(task)
    mapping = getattr(auto, "_model_mapping", None)
    if mapping is not None and type(config) not in mapping:
        has = [name for name in AUTO_CLASSES if type(config) in getattr(auto_class(name), "_model_mapping", ())]
        also = f"; it has them for task={' or '.join(map(repr, has))}" if has else ""
        raise ConfigError(
            f"A {type(config).__name__} model has no head for task '{task}'{also}. Choose another task or model."
        )
    found = mapping[type(config)] if mapping is not None else None
    if isinstance(found, list | tuple) and not config.architectures:  # DeiT has one with a distillation token, too
        config.architectures = [found[0].__name__]
    return auto.from_config(config, dtype="float32")
