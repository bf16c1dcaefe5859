"""Knowledge review."""

from __future__ import annotations

from typing import Any

import numpy as np

from .basics import Array
from .maps import State, layer, norm, pooled


def nearest(x: Array, height: int, width: int) -> Array:
    """Return a map in another size: each pixel is the one at ⌊i·h/h'⌋."""
    found = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        found[:, :, i, j] = x[:, :, i * x.shape[2] // height, j * x.shape[3] // width]
    return found


def hcl(student: Array, teacher: Array) -> float:
    """Chen et al. 2021, section 3.4: mean squares at full size, weight 1, then of grids of 4, 2, 1: ½, ¼, …"""
    weights, values = [1.0], [((student - teacher) ** 2).mean()]
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weights.append(weights[-1] / 2)
            values.append(((pooled(student, size) - pooled(teacher, size)) ** 2).mean())
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def review_kd(student: Any, teacher: Any, mask: Array | None, state: State) -> float:
    """Chen et al. 2021, figure 3 and 4: from the deepest stage up, fused by attention, and compared by HCL.

    As the authors' code: the fused map is brought to the teacher's size before the 3×3 convolution, and is what the
    stage above gets.
    """
    student, teacher = ([x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x for x in side] for side in (student, teacher))
    total, below = 0.0, None
    for k in reversed(range(len(student))):
        name = f"fusions.{k}"
        x = norm(layer(student[k], state, f"{name}.reduce.0"), state, f"{name}.reduce.1")
        if below is not None:
            y = nearest(below, *x.shape[2:])
            gates = 1 / (1 + np.exp(-layer(np.concatenate([x, y], 1), state, f"{name}.gate")))
            x = x * gates[:, :1] + y * gates[:, 1:]
        below = nearest(x, *teacher[k].shape[2:])
        out = norm(layer(below, state, f"{name}.expand.0"), state, f"{name}.expand.1")
        total += hcl(out, teacher[k])
    return total
