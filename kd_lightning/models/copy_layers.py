"""Starting a student from some of its teacher's layers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.models.narrowing import kept_units, narrowed

log = logging.getLogger(__name__)


def copy_layers(teacher: nn.Module, student: nn.Module, layers: str | Sequence[int]) -> list[str]:
    """Copy chosen layers of a teacher into its student, and all that surrounds them where it fits.

    Embeddings, poolers and heads are copied where name and shape agree; a student with its own vocabulary or its own
    labels keeps its own values there. A narrower student of a Transformers family keeps evenly spread units of every
    layer (see `kept_units`). Values are copied, never shared.

    Args:
        teacher: any model whose layers are one list; may be of another dtype or on another device.
        student: changed in place.
        layers: one teacher layer for each student layer, counted from 1 (`[2, 4, 6]`), or a rule: `"uniform"`,
            `"skip"`, `"last"` (see `kd_lightning.objective.layer_maps`).

    Returns:
        The student's tensors that kept their own values.

    Raises:
        MatchError: for a number of layers other than the student's, or a layer the teacher does not have.
        ConfigError: if the student is wider, is built differently, or one of the two has no list of layers.

    Example:
        >>> teacher = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(4)]), nn.Linear(2, 3))
        >>> student = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(2)]), nn.Linear(2, 5))
        >>> copy_layers(teacher, student, "uniform")
        ['1.weight', '1.bias']
        >>> torch.equal(student[0][0].weight, teacher[0][1].weight)
        True

    """
    (teacher_path, teacher_depth), (student_path, student_depth) = (
        _stack(teacher, "teacher"),
        _stack(student, "student"),
    )
    chosen = _resolve(layers, student_depth, teacher_depth)
    source, targets, own = _tensors(teacher), _tensors(student), []
    _check_embeddings(source, targets)
    units, tables = kept_units(teacher, student), _tables(student)
    with torch.no_grad():
        for name, target in targets.items():
            origin = source.get(_origin(name, student_path, teacher_path, chosen))
            fitting = None if origin is None else narrowed(origin, target.shape, units, "att" in name, name in tables)
            if fitting is not None:
                target.copy_(fitting)
            elif name.startswith(student_path):
                _refuse(name, target, origin)
            else:
                own.append(name)
    log.info(
        "The student starts from teacher layers %s; its own: %s.",
        ", ".join(map(str, chosen)),
        ", ".join(own) or "nothing",
    )
    return own


def _check_embeddings(teacher: dict[str, Tensor], student: dict[str, Tensor]) -> None:
    """Refuse to leave out a step of the teacher's embeddings, such as ELECTRA's projection to its width."""
    lost = next((name for name in teacher if name.startswith("embeddings") and name not in student), None)
    if lost is not None and any(name.startswith("embeddings") for name in student):
        raise ConfigError(
            f"The student has nothing like the teacher's '{lost}', so its layers would meet embeddings they do not "
            "know. Choose another width or `embedding_size`, or leave `layers` null."
        )


def _resolve(layers: str | Sequence[int], student_depth: int, teacher_depth: int) -> list[int]:
    """Return the teacher layer (from 1) of each student layer."""
    from kd_lightning.objective.layer_maps import layer_map

    if not isinstance(layers, Sequence):
        raise MatchError(
            f"Expected `layers` to be a rule, such as 'uniform', or a list, such as [2, 4], got {layers!r}."
        )
    if not isinstance(layers, str) and len(layers) != student_depth:
        raise MatchError(f"Expected one teacher layer for each of the student's {student_depth}, got {list(layers)}.")
    rule: Any = layers if isinstance(layers, str) else list(enumerate(layers, start=1))
    chosen = [teacher for _, teacher in layer_map(rule, student_depth, teacher_depth)]
    if 0 in chosen:
        raise MatchError(f"Teacher layers are counted from 1 to {teacher_depth}, got {chosen}.")
    return chosen


def _stack(model: nn.Module, role: str) -> tuple[str, int]:
    """Return path (with its final dot) and length of the longest list of modules of one class."""
    lists = [
        (f"{path}.", module) for path, module in _plain(model).named_modules() if isinstance(module, nn.ModuleList)
    ]
    uniform = [(path, len(layers)) for path, layers in lists if len({type(layer) for layer in layers}) == 1]
    if not uniform:
        raise ConfigError(f"The {role}, a {type(model).__name__}, has no list of layers to copy.")
    path, depth = max(uniform, key=lambda found: found[1])
    declared = getattr(getattr(model, "config", None), "num_hidden_layers", depth)
    if declared != depth:  # ALBERT: one set of weights, applied many times
        raise ConfigError(f"The {role}, a {type(model).__name__}, runs {declared} layers on {depth} set(s) of weights.")
    return _without_base(model, path), depth


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {_without_base(model, name): tensor for name, tensor in _plain(model).state_dict(keep_vars=True).items()}


def _tables(model: nn.Module) -> set[str]:
    named = _plain(model).named_modules()
    return {_without_base(model, f"{path}.weight") for path, module in named if isinstance(module, nn.Embedding)}


def _plain(model: nn.Module) -> nn.Module:
    return getattr(model, "_orig_mod", model)


def _without_base(model: nn.Module, name: str) -> str:
    """Drop Transformers' name of the body (`bert.`), so that a bare body and one under a head agree."""
    return name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")


def _origin(name: str, student_path: str, teacher_path: str, chosen: list[int]) -> str:
    if not name.startswith(student_path):
        return name
    index, _, rest = name.removeprefix(student_path).partition(".")
    return f"{teacher_path}{chosen[int(index)] - 1}.{rest}"


def _refuse(name: str, target: Tensor, source: Tensor | None) -> None:
    if source is None:
        raise ConfigError(
            f"The teacher's layers have nothing like the student's '{name}': the two are built differently."
        )
    raise ConfigError(
        f"Starting from the teacher's layers needs a student of its kind and no wider, but '{name}' is "
        f"{list(target.shape)} in the student and {list(source.shape)} in the teacher. Leave `layers` null."
    )
