"""Initialising a student from some of its teacher's layers, cut to the student's width where it is narrower."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.objective.layer_maps import layer_map

log = logging.getLogger(__name__)

_Units: TypeAlias = Mapping[tuple[int, int], Tensor]


def copy_layers(teacher: nn.Module, student: nn.Module, layers: str | Sequence[int]) -> list[str]:
    """Copy chosen layers of a teacher into its student, and every other tensor that fits.

    Embeddings, poolers and heads are copied where name and shape agree; a student with its own vocabulary or its own
    labels keeps its own values there. A narrower student of a Transformers family keeps evenly spread units of every
    layer (see `kept_units`). Values are copied, never shared.

    Args:
        teacher: any model whose layers are one list; may be of another dtype or on another device.
        student: changed in place.
        layers: one teacher layer for each student layer, counted from 1 (`[2, 4, 6]`), or a rule: `"uniform"`,
            `"skip"`, `"last"` (see `kd_lightning.objective.layer_maps`).

    Returns:
        The names of the student's tensors that keep their own values.

    Raises:
        MatchError: if the number of layers is not the student's, or the teacher does not have one of them.
        ConfigError: if the student is wider, is built differently, or one of the two has no list of layers.

    Example:
        >>> teacher = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(4)]), nn.Linear(2, 3))
        >>> student = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(2)]), nn.Linear(2, 5))
        >>> copy_layers(teacher, student, "uniform")
        ['1.weight', '1.bias']
        >>> torch.equal(student[0][0].weight, teacher[0][1].weight)
        True

    """
    teacher_path, teacher_depth = _layer_list(teacher, "teacher")
    student_path, student_depth = _layer_list(student, "student")
    chosen = _resolve(layers, student_depth, teacher_depth)
    source, targets, own = tensors_of(teacher), tensors_of(student), []
    _check_embeddings(source, targets)
    units, tables = kept_units(teacher, student), _tables(student)
    with torch.no_grad():
        for name, target in targets.items():
            origin = source.get(_origin(name, student_path, teacher_path, chosen))
            fitting = None if origin is None else narrowed(origin, target.shape, units, "att" in name, name in tables)
            if fitting is not None:
                target.copy_(fitting)
            elif not name.startswith(student_path):
                own.append(name)
            elif origin is None:
                raise ConfigError(
                    f"The teacher's layers have no '{name}' as the student's do: their structures differ."
                )
            else:
                raise ConfigError(
                    f"Copying the teacher's layers needs a student of the same family and no wider, but '{name}' is "
                    f"{list(target.shape)} in the student and {list(origin.shape)} in the teacher. Leave `layers` null."
                )
    log.info(
        "The student starts from teacher layers %s; its own: %s.",
        ", ".join(map(str, chosen)),
        ", ".join(own) or "nothing",
    )
    return own


def _layer_list(model: nn.Module, role: str) -> tuple[str, int]:
    """Return path (with its final dot) and length of the longest list of modules of one class."""
    lists = [(path, module) for path, module in _plain(model).named_modules() if isinstance(module, nn.ModuleList)]
    uniform = [(f"{path}.", len(layers)) for path, layers in lists if len({type(layer) for layer in layers}) == 1]
    if not uniform:
        raise ConfigError(f"The {role}, a {type(model).__name__}, has no list of layers to copy.")
    path, depth = max(uniform, key=lambda found: found[1])
    declared = getattr(getattr(model, "config", None), "num_hidden_layers", depth)
    if declared != depth:  # ALBERT: one set of weights, applied many times
        raise ConfigError(f"The {role}, a {type(model).__name__}, runs {declared} layers on {depth} set(s) of weights.")
    return _without_base(model, path), depth


def _resolve(layers: str | Sequence[int], student_depth: int, teacher_depth: int) -> list[int]:
    """Return the teacher layer (from 1) of each student layer."""
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


def _origin(name: str, student_path: str, teacher_path: str, chosen: list[int]) -> str:
    """Return the name of the teacher's tensor that a student's tensor is copied from."""
    if not name.startswith(student_path):
        return name
    index, _, rest = name.removeprefix(student_path).partition(".")
    return f"{teacher_path}{chosen[int(index)] - 1}.{rest}"


def _check_embeddings(teacher: dict[str, Tensor], student: dict[str, Tensor]) -> None:
    """Refuse to leave out a step of the teacher's embeddings, such as ELECTRA's projection to its width."""
    lost = next((name for name in teacher if name.startswith("embeddings") and name not in student), None)
    if lost is not None and any(name.startswith("embeddings") for name in student):
        raise ConfigError(
            f"The student has no '{lost}' as the teacher has, so its layers would get other embeddings than they were "
            "trained on. Choose another width or `embedding_size`, or leave `layers` null."
        )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name, without the name that Transformers gives the body."""
    return {_without_base(model, name): tensor for name, tensor in _plain(model).state_dict(keep_vars=True).items()}


def _tables(model: nn.Module) -> set[str]:
    """Return the names of the embedding tables, whose rows are words or positions."""
    named = _plain(model).named_modules()
    return {_without_base(model, f"{path}.weight") for path, module in named if isinstance(module, nn.Embedding)}


def _plain(model: nn.Module) -> nn.Module:
    return getattr(model, "_orig_mod", model)


def _without_base(model: nn.Module, name: str) -> str:
    """Drop Transformers' name of the body (`bert.`), so that a bare body and one under a head agree."""
    return name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")


@dataclass(frozen=True)
class Kept:
    """Indices of the units kept, by (wide size, narrow size): of the width, and of the feed-forward layers.

    Sizes alone may not tell the two apart (3 · 768 = 2 · 1152), so attention looks up those of the width first.
    """

    width: _Units
    feed_forward: _Units

    def of(self, size: int, smaller: int, attention: bool) -> Tensor | None:
        """Return the units kept of an axis, or None if there is no rule for it."""
        at = (size, smaller)
        exact = min(self.width, default=None) == at  # the width itself, and no fused multiple of it
        first, second = (self.width, self.feed_forward) if attention or exact else (self.feed_forward, self.width)
        return first.get(at, second.get(at))


_FUSED = (1, 2, 3)  # one matrix alone, a gate beside its values, query beside key and value


def kept_units(teacher: nn.Module, student: nn.Module) -> Kept:
    """Return the teacher's units that its student keeps, for every size in which they may differ.

    Units are spread evenly (Xu et al. 2024, "Initializing Models with Larger Ones", uniform selection), and the same
    ones are kept in every layer, because a residual stream connects the layers. Within a width, whole heads are chosen
    first and units of each head then, so that no head of the student mixes several of the teacher's; evenly spread
    units also keep the pairs and, nearly, the frequencies of rotary positions.

    Args:
        teacher: a Transformers model; anything else has no known sizes, and nothing can be cut.
        student: one of the same family, no wider than the teacher.

    Returns:
        For width and feed-forward size, and their multiples where matrices are fused, the indices kept.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> wide, narrow = (BertModel(BertConfig(vocab_size=9, hidden_size=width, num_attention_heads=2,
        ...                 intermediate_size=4 * width, num_hidden_layers=1)) for width in (8, 4))
        >>> kept_units(wide, narrow).width[8, 4]
        tensor([0, 2, 4, 6])

    """
    wide, narrow = _sizes(teacher), _sizes(student)
    if wide is None or narrow is None:
        return Kept({}, {})
    width = (wide["hidden_size"], narrow["hidden_size"])
    inner = (wide["intermediate_size"], narrow["intermediate_size"])
    return Kept(_blocks(*width, _by_head(wide, narrow)), _blocks(*inner, evenly_spread(*inner)))


def narrowed(
    tensor: Tensor, shape: torch.Size, kept: Kept, attention: bool = False, table: bool = False
) -> Tensor | None:
    """Return a tensor cut to a shape, or None if there is no rule to cut one of its axes.

    Args:
        tensor: the teacher's.
        shape: the student's.
        kept: the units that the student keeps.
        attention: whether it belongs to an attention layer.
        table: whether its rows are words or positions, which are not units.

    """
    if tensor.dim() != len(shape):
        return None
    for axis, (size, smaller) in enumerate(zip(tensor.shape, shape, strict=True)):
        if size != smaller:
            units = kept.of(size, smaller, attention)
            if units is None or (table and axis == 0):
                return None
            tensor = tensor.index_select(axis, units.to(tensor.device))
    return tensor


def _sizes(model: nn.Module) -> dict[str, int] | None:
    config: Any = getattr(_plain(model), "config", None)
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    feed_forward = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)
    if not (hidden and heads and feed_forward):
        return None
    return {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": feed_forward}


def _blocks(size: int, smaller: int, units: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return the units kept of one matrix, and of several that are fused into one."""
    if smaller >= size:
        return {}
    fused = {times: (torch.arange(times)[:, None] * size + units[None]).flatten() for times in _FUSED}
    return {(times * size, times * smaller): kept for times, kept in fused.items()}


def _by_head(wide: dict[str, int], narrow: dict[str, int]) -> Tensor:
    """Return the kept units of the width: evenly spread heads, evenly spread units of each."""
    heads, fewer = wide["num_attention_heads"], narrow["num_attention_heads"]
    size, smaller = wide["hidden_size"] // heads, narrow["hidden_size"] // fewer
    if fewer > heads or smaller > size:  # heads of the student are larger: they must mix some of the teacher's
        return evenly_spread(wide["hidden_size"], narrow["hidden_size"])
    return (evenly_spread(heads, fewer)[:, None] * size + evenly_spread(size, smaller)[None]).flatten()


def evenly_spread(size: int, smaller: int) -> Tensor:
    """Return the numbers of some units of many, evenly spread from the first on.

    Example:
        >>> evenly_spread(6, 3)
        tensor([0, 2, 4])

    """
    return torch.arange(smaller) * size // max(smaller, 1)
