"""Checks that tensors belong together, by their shapes only; errors name both shapes and what to change."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.core.errors import MatchError

ONE_FEATURE = (
    "{loss} compares one feature with one, but the match names several: write a MatchScheme, which makes one term for "
    "each pair of layers, or one term for each."
)

PAIR = (
    "{loss} relates two layers of each model but got {got} from the {side}: give the match a pair of addresses, as in "
    '{side}=("hidden.0", "hidden.1").'
)

SAME_TOKENS = "both must come from the same batch and the same tokens"


def same_shape(loss: str, student: Tensor, teacher: Tensor, axis: int, fix: str) -> None:
    """Check that two tensors have one shape.

    Args:
        loss: name of the loss, for the message.
        student: any shape.
        teacher: the shape of `student`.
        axis: the axis that `fix` can mend.
        fix: what the user can do where only that axis differs.

    Raises:
        MatchError: if the shapes differ.

    """
    if student.shape == teacher.shape:
        return
    if student.dim() != teacher.dim() or _without(student, axis) != _without(teacher, axis):
        fix = SAME_TOKENS
    raise MatchError(_unequal(loss, student, teacher, fix))


def same_features(loss: str, student: Tensor, teacher: Tensor) -> None:
    """Check that hidden states (B, L, D) or vectors (B, D) have one shape, or feature maps (B, C, H, W).

    Raises:
        MatchError: if the shapes differ, or a side has several features.

    """
    one_feature(loss, student, teacher)
    if student.dim() != 4 or teacher.dim() != 4:
        fix = "their widths differ, add projection='linear'"
        if {student.dim(), teacher.dim()} == {3, 4}:
            fix = "a term that is bound to both models brings tokens to a map"
            raise MatchError(_unequal(loss, student, teacher, fix))
        same_shape(loss, student, teacher, axis=-1, fix=fix)
    elif student.shape[2:] != teacher.shape[2:]:
        raise MatchError(_unequal(loss, student, teacher, "a term brings maps to one size, unless resize=None"))
    else:
        same_shape(loss, student, teacher, axis=1, fix="their channels differ, add projection='conv'")


def one_feature(loss: str, *sides: object) -> None:
    """Check that a loss that compares one feature with one is not given several.

    Raises:
        MatchError: if a side is a tuple or a list.

    """
    if any(isinstance(side, (tuple, list)) for side in sides):
        raise MatchError(ONE_FEATURE.format(loss=loss))


def mask_fits(loss: str, mask: Tensor | None, *tensors: Tensor) -> None:
    """Check that a (B, L) mask covers the first two axes of every tensor.

    Raises:
        MatchError: if it does not.

    """
    if mask is None:
        return
    for tensor in tensors:
        if tensor.shape[:2] != mask.shape:
            raise MatchError(
                f"{loss} got a mask of shape {tuple(mask.shape)} for a tensor of shape {tuple(tensor.shape)}: "
                f"the mask must cover its first two axes, batch and tokens."
            )


def layer_pair(loss: str, student: object, teacher: object, equal_widths: bool = False) -> None:
    """Check that each side is a pair of (B, L, D) tensors, or of (B, C, H, W), for losses on how two layers relate.

    Args:
        loss: name of the loss, for the message.
        student: what should be a pair.
        teacher: what should be a pair.
        equal_widths: whether the two layers of one side must also have one width.

    Raises:
        MatchError: if one of them is not.

    """
    for side, value in (("student", student), ("teacher", teacher)):
        if not (isinstance(value, (tuple, list)) and len(value) == 2):
            got = f"{len(value)} tensors" if isinstance(value, (tuple, list)) else "one tensor"
            raise MatchError(PAIR.format(loss=loss, side=side, got=got))
        a, b = value
        maps = a.dim() == 4
        places, width = ("height and width", "channels") if maps else ("tokens", "width")
        axis = 1 if maps else -1
        if a.dim() != b.dim() or _without(a, axis) != _without(b, axis) or (equal_widths and a.shape != b.shape):
            raise MatchError(
                f"{loss} got {tuple(a.shape)} and {tuple(b.shape)} as the {side}'s pair of layers: both must have the "
                f"same batch and {places}{f' and the same {width}' if equal_widths else ''}."
            )
        if a.dim() not in (3, 4):
            raise MatchError(
                f"{loss} relates layers (B, L, D) or maps (B, C, H, W) but got {tuple(a.shape)} from the {side}."
            )


def _unequal(loss: str, student: Tensor, teacher: Tensor, fix: str) -> str:
    return (
        f"{loss} needs equal shapes but got {tuple(student.shape)} from the student and {tuple(teacher.shape)} "
        f"from the teacher: {fix}."
    )


def _without(x: Tensor, axis: int) -> list[int]:
    """Return the shape of `x` with one axis left out."""
    shape = list(x.shape)
    del shape[axis]
    return shape
