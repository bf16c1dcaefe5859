"""What is known to be wrong before anything is trained: settings, labels and rows that do not go together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object, instantiate
from torch import nn

from kd_lightning.core.batch import is_batch_field
from kd_lightning.core.errors import ConfigError, KDError, hint
from kd_lightning.data import DataModule
from kd_lightning.pipeline.settings import Node, RunSettings, TaskSettings, TeacherSettings
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.training.strategies import Strategy

log = logging.getLogger(__name__)


def check_settings(settings: RunSettings) -> None:
    """Raise an error for settings that exclude each other, of any task.

    Raises:
        ConfigError: with what to type instead.

    """
    for own in settings.tasks.values():
        if own.teacher is not None:
            _check_teachers(own.teacher)
        elif left_out := [name for name, term in (own.objective.get("terms") or {}).items() if term and name != "hard"]:
            log.info("There is no teacher: the student learns from labels alone, without %s.", ", ".join(left_out))
        if own.cache:
            _check_cache(own)
        _check_row_weights(own)
        _check_strategy(own)
        if own.curriculum is not None and not own.cache:
            raise ConfigError(
                "A curriculum orders rows by the teacher's answers, which a cache has: type cache=true, or leave "
                "curriculum out."
            )
        if own.data.get("unlabelled") is not None:
            _check_unlabelled(own)


def _check_row_weights(settings: TaskSettings) -> None:
    """Refuse weights that are divided by their mean where a batch has one row, whose weight is then 1."""
    alone = settings.data.get("batch_size") == 1 and settings.fitting.trainer.get("devices") == 1
    for name, term in (settings.objective.get("terms") or {}).items() if alone else ():
        if term and term.get("sample_weight") and instantiate(term["sample_weight"]).normalize:
            raise ConfigError(
                f"Rows of the term '{name}' are weighted relative to their batch, and data.batch_size=1 leaves one: "
                f"type a larger one, or objective.terms.{name}.sample_weight.normalize=false."
            )


def _check_strategy(settings: TaskSettings) -> None:
    """Refuse a strategy that runs layers of a teacher of which only a cache runs."""
    made = instantiate(settings.strategy)
    if settings.cache and isinstance(made, Strategy) and made.needs_teacher:
        raise ConfigError(
            f"{type(made).__name__} runs layers of the teacher, and a cache has only its outputs: leave cache=true out."
        )


def _check_teachers(teacher: TeacherSettings) -> None:
    several = isinstance(teacher.path, Mapping)
    if several and not teacher.path:
        raise ConfigError("'teacher.path' is empty. Type teacher.path=DIR, or 'teacher.path={a: DIR, b: DIR}'.")
    if teacher.combine not in ("logits", "probabilities"):
        raise ConfigError(f"'teacher.combine' cannot be '{teacher.combine}': choose logits or probabilities.")
    if teacher.weights is not None and not several:
        raise ConfigError("'teacher.weights' is for several teachers: 'teacher.path={a: DIR, b: DIR}'.")
    if isinstance(teacher.weights, Mapping) and isinstance(teacher.path, Mapping):
        for name in teacher.weights:
            if name not in teacher.path:
                raise ConfigError(f"'teacher.weights.{name}' is of no teacher. {hint(str(name), list(teacher.path))}")


def _check_cache(settings: TaskSettings) -> None:
    if settings.teacher is None:
        raise ConfigError("cache=true stores a teacher's outputs, and there is no teacher: leave cache out.")
    if follows_student(settings.teacher.source):
        raise ConfigError(
            "cache=true stores a teacher's outputs once, and this teacher changes with the student: leave cache out."
        )
    views = settings.teacher.cache_views
    if views is not None and (not isinstance(views, int) or views < 1):
        raise ConfigError(f"'teacher.cache.views' is a number of views of each row, such as 8; got {views!r}.")
    if views == 1:
        log.warning(
            "teacher.cache.views=1 shows the student one view of each row in every epoch: 8 or more are better."
        )
    augment = settings.data.get("augment") or {}
    changing = any(node is not None for node in augment.values()) or settings.data.get("mix") is not None
    if views is None and changing:
        raise ConfigError(
            "cache=true stores the teacher's outputs of each row once, and the augmentation changes rows in every "
            "epoch: type teacher.cache.views=8 to store so many views of each row, or leave cache out."
        )
    if views is None and not instantiate({**settings.task, "metrics": {}}).cacheable:
        raise ConfigError(
            "cache=true stores the teacher's outputs of each row once, and this task hides other tokens of a row in "
            "every epoch: type teacher.cache.views=8 to store so many views of each row, or leave cache out."
        )
    Codec(settings.teacher.cache_dtype, settings.teacher.cache_top_k)  # raises an error for what cannot be


def follows_student(source: object) -> bool:
    """Return whether what builds a teacher makes it of the student: there is nothing to cache or evaluate before.

    Example:
        >>> follows_student({"_target_": "kd_lightning.EMATeacher"}), follows_student(None)
        (True, False)

    """
    target = source.get("_target_") if isinstance(source, Mapping) else None
    try:
        return target is not None and bool(getattr(get_object(str(target)), "follows_student", False))
    except Exception:  # a target that is not there is told of where all targets are checked
        return False


def check_views(data: DataModule) -> None:
    """Raise an error where a teacher's outputs of each row are to be stored once, and rows come in ever new views.

    Raises:
        ConfigError: with what to type instead.

    """
    if data.varies and data.views is None:
        raise ConfigError(
            f"cache=true stores the teacher's outputs of each row once, and {type(data).__name__} changes rows in "
            "every epoch: type teacher.cache.views=8 to store so many views of each row, or leave cache out."
        )


def _check_unlabelled(settings: TaskSettings) -> None:
    if settings.teacher is None:
        raise ConfigError("data.unlabelled is text for a teacher to label, and there is no teacher: leave it out.")
    terms = settings.objective.get("terms") or {}
    if not any(node is not None and _learns_from_teacher(node) for node in terms.values()):
        raise ConfigError(
            "Nothing can be learnt from data.unlabelled: only labels count in this objective, and that text has none. "
            "Type objective.terms.logits.weight=1, or leave data.unlabelled out."
        )


def _learns_from_teacher(term: Node) -> bool:
    """Tell whether a term that counts compares the student with a teacher's output or feature."""
    if not term.get("weight", 1.0):
        return False
    if (match := term.get("match")) is None:  # a scheme of features
        return True
    addresses = match.get("teacher")
    addresses = addresses if isinstance(addresses, list) else [addresses]
    return any(address is not None and not is_batch_field(address) for address in addresses)


def check_labels(model: nn.Module, data: DataModule, folder: object) -> None:
    """Raise an error for a teacher that was trained for other labels.

    Args:
        model: the teacher; one without a Transformers configuration cannot be checked.
        data: knows how many labels there are, and what they are called.
        folder: where the teacher is from.

    Raises:
        ConfigError: its head has another number of labels than the data, or the same ones in another order.

    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    if data.num_labels is not None and config.num_labels != data.num_labels:
        raise ConfigError(
            f"The teacher in {folder} has {config.num_labels} labels, but the data has {data.num_labels} "
            "(data.num_labels). Choose a teacher that was fine-tuned for this data."
        )
    own = {int(number): str(name).lower() for number, name in config.id2label.items()}
    wanted = {number: name.lower() for number, name in enumerate(data.classes or ())}
    if own != wanted and sorted(own.values()) == sorted(wanted.values()):
        theirs, ours = (", ".join(name for _, name in sorted(names.items())) for names in (own, wanted))
        raise ConfigError(
            f"The teacher in {folder} numbers its labels {theirs}, but the data {ours} "
            "(data.labels). Choose a teacher that was fine-tuned for this data."
        )
    if wanted and own != wanted and not all(name.startswith("label_") for name in own.values()):
        log.warning("The labels of the teacher in %s are %s, those of the data %s.", folder, own, wanted)


def positions(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for; None where it has no table of positions.

    RoBERTa and its like number tokens from after the padding's id; the entries up to there stay unused.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> small = dict(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
        >>> positions(BertModel(BertConfig(**small, max_position_embeddings=40)))
        40

    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[-1] == "position_embeddings":
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def missing_positions(model: nn.Module, data: DataModule) -> int:
    """Return for how many tokens of the longest possible rows a model has no position."""
    known = positions(model)
    return max(0, data.max_length - known) if data.max_length is not None and known is not None else 0


def build_for_data(builder: Callable[..., Any], **options: Any) -> Any:
    """Call a student's builder; what it does not take of the data's sizes is an error that names it.

    Raises:
        ConfigError: for a builder of another kind of data, such as of images where rows are tokens, sizes of which
            one of this library's builders can make no model, or a value that follows from the data.

    """
    given = getattr(builder, "keywords", {})
    if wrong := next((name for name in options if name in given and given[name] != options[name]), None):
        raise ConfigError(
            f"'student.{wrong}' cannot be {given[wrong]!r}: this data makes it {options[wrong]!r}. Leave it out."
        )
    try:
        return builder(**options)
    except Exception as error:
        wrong = next((name for name in options if f"unexpected keyword argument '{name}'" in str(error)), None)
        if isinstance(error, TypeError) and wrong is not None:
            raise ConfigError(
                f"The student's builder takes no '{wrong}', which this data has ({' '.join(str(error).split())}): "
                "choose a student for such data, or let a builder of your own take **options."
            ) from error
        made = getattr(builder, "func", builder)
        if isinstance(error, KDError) or not str(getattr(made, "__module__", "")).startswith("kd_lightning."):
            raise
        raise ConfigError(f"{no_model('student', error)} Look at its sizes.") from error


def no_model(key: str, error: Exception) -> str:
    """Return the sentence for settings that make no model.

    Example:
        >>> no_model("student", RuntimeError("not enough\\nmemory."))
        "'student' cannot be built as it is configured: not enough memory."

    """
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(". ")
    return f"'{key}' cannot be built as it is configured: {reason}."


def check_inputs(model: nn.Module, data: DataModule, role: str) -> None:
    """Raise an error for rows that a model cannot take: too many tokens, or images of another size.

    Args:
        model: teacher or student.
        data: the data module, whose `max_length` or size of images counts.
        role: `teacher` or `student`.

    Raises:
        ConfigError: with what to type instead.

    """
    check_positions(model, data, role)
    check_vocabulary(model, data, role)
    check_image_size(model, data, role)


def check_vocabulary(model: nn.Module, data: DataModule, role: str) -> None:
    """Raise an error for a tokenizer that has more pieces than a model has embeddings; fewer are padded ones.

    Args:
        model: teacher or student.
        data: the data module, whose tokenizers count.
        role: `teacher` or `student`.

    Raises:
        ConfigError: with both numbers.

    """
    processor = (data.teacher_processor if role == "teacher" else None) or data.processor
    embeddings: Any = getattr(model, "get_input_embeddings", None)
    if data.max_length is None or not hasattr(processor, "__len__") or embeddings is None:
        return
    rows = getattr(embeddings(), "num_embeddings", None)
    if isinstance(rows, int) and rows < len(processor):
        raise ConfigError(
            f"The {role} has embeddings for {rows} tokens, but its tokenizer has {len(processor)}. Choose a {role} and "
            "a tokenizer that belong together, and leave vocab_size out of what is typed."
        )


def check_image_size(model: nn.Module, data: DataModule, role: str) -> None:
    """Raise an error for images of another size than a model has position embeddings for.

    Args:
        model: teacher or student; convolutional networks take images of any size.
        data: the data module, whose sizes of images count.
        role: `teacher` or `student`.

    Raises:
        ConfigError: with the size that it takes.

    """
    size = data.input_options(teacher=role == "teacher").get("image_size")
    known = getattr(getattr(model, "config", None), "image_size", None)
    if size is not None:
        _check_patches(getattr(model, "config", None), size, role)
    fixed = any(name.endswith("embeddings.position_embeddings") for name, _ in model.named_parameters())
    if size is None or known is None or not fixed or _pair(size) == _pair(known):
        return
    (height, width), key = _pair(known), "data.teacher_size" if role == "teacher" else "data.size"
    raise ConfigError(
        f"The {role} takes images of {height}×{width}, but the data's have {'×'.join(map(str, _pair(size)))}. Type "
        f"{key}={height if height == width else [height, width]}, or choose another {role}."
    )


def _check_patches(config: Any, size: Any, role: str) -> None:
    """Raise an error for images that are smaller than a patch, or of other channels than red, green and blue."""
    channels, patch = getattr(config, "num_channels", 3), getattr(config, "patch_size", 1)
    if isinstance(channels, int) and channels != 3:
        raise ConfigError(f"The {role} takes images of {channels} channels, but the data's have 3: choose another one.")
    if isinstance(patch, int) and patch > min(_pair(size)):
        height, width = _pair(size)
        raise ConfigError(f"The {role} has patches of {patch}×{patch}, but the data's images have {height}×{width}.")


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_positions(model: nn.Module, data: DataModule, role: str) -> None:
    """Raise an error for rows that are longer than a model takes, before one of them comes up in training.

    Args:
        model: teacher or student.
        data: the data module, whose `max_length` counts.
        role: what to call the model.

    Raises:
        ConfigError: with how long rows may be.

    """
    if missing_positions(model, data):
        known = positions(model)
        raise ConfigError(
            f"Rows may have {data.max_length} tokens (data.max_length), but the {role} takes {known} at most. "
            f"Type data.max_length={known}, or choose another {role}."
        )
