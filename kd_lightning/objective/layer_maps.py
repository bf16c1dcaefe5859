"""Layer maps: rules that pair student layers with teacher layers, whatever the two depths are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from kd_lightning.core.errors import MatchError, hint

LayerMap: TypeAlias = str | Sequence[Sequence[int]]
"""`uniform`, `skip`, `last`, `top`, or explicit `(student, teacher)` pairs."""


def uniform(layer: int, student_layers: int, teacher_layers: int) -> int:
    """Spread the student's layers evenly over the teacher's: t = ⌊s·T/S + ½⌋."""
    return (2 * layer * teacher_layers + student_layers) // (2 * student_layers)


def skip(layer: int, student_layers: int, teacher_layers: int) -> int:
    """Take every ⌊T/S⌋-th teacher layer (PKD-Skip, Sun et al. 2019): t = s·⌊T/S⌋."""
    return layer * (teacher_layers // student_layers)


def last(layer: int, student_layers: int, teacher_layers: int) -> int:
    """Take the teacher's last S layers (PKD-Last, Sun et al. 2019): t = T − S + s."""
    return teacher_layers - student_layers + layer


LEARNED = "emd"
"""A map of all layers to all, learned in training (`losses.EMD`): a match scheme knows it, pairs of layers do not."""

RULES: dict[str, Callable[[int, int, int], int]] = {"uniform": uniform, "skip": skip, "last": last}


def layer_map(rule: LayerMap, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pair student layers with teacher layers: all of 1…S, or with `top` only the two last ones (MiniLM).

    Args:
        rule: the name of a rule, or explicit `(student, teacher)` pairs, which are only checked.
        student_layers: S.
        teacher_layers: T.

    Returns:
        `(student, teacher)` pairs in the student's order. Layer 0, the embeddings, appears in explicit pairs only.

    Raises:
        MatchError: if a rule is unknown, a layer is out of range, or `skip` or `last` get a student that is deeper.

    Example:
        >>> layer_map("uniform", 4, 12), layer_map("last", 3, 6), layer_map([(1, 2)], 3, 6)
        ([(1, 3), (2, 6), (3, 9), (4, 12)], [(1, 4), (2, 5), (3, 6)], [(1, 2)])

    """
    if not isinstance(rule, str):
        return _checked([_pair(pair) for pair in rule], student_layers, teacher_layers)
    if rule == "top":
        return [(student_layers, teacher_layers)]
    if rule == LEARNED:
        raise MatchError(f"Layer map '{rule}' is learned while a match scheme trains; here take 'uniform' or another.")
    if rule not in RULES:
        raise MatchError(f"Unknown layer map '{rule}'. {hint(rule, [*RULES, 'top', LEARNED])}")
    if rule != "uniform" and student_layers > teacher_layers:
        raise MatchError(
            f"Layer map '{rule}' needs a student no deeper than its teacher, "
            f"but the student has {student_layers} layers and the teacher {teacher_layers}. Use 'uniform'."
        )
    pairs = [(s, RULES[rule](s, student_layers, teacher_layers)) for s in range(1, student_layers + 1)]
    return _checked(pairs, student_layers, teacher_layers)


def _pair(pair: Sequence[int]) -> tuple[int, int]:
    if isinstance(pair, str | int) or len(pair) != 2 or not all(isinstance(layer, int) for layer in pair):
        raise MatchError(f"Expected a layer map's entries to be (student, teacher) pairs of numbers but got {pair!r}.")
    return (pair[0], pair[1])


def _checked(pairs: list[tuple[int, int]], student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    for student, teacher in pairs:
        for role, layer, depth in (("student", student, student_layers), ("teacher", teacher, teacher_layers)):
            if not 0 <= layer <= depth:
                raise MatchError(
                    f"Layer map pair {(student, teacher)} names {role} layer {layer}, "
                    f"but the {role} has layers 0 to {depth}."
                )
    return pairs
