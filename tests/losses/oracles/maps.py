"""Losses on feature maps (B, C, H, W)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd_lightning.functional.noise import uniform

from .basics import Array, Oracle, average, kl, smooth_l1, softmax

State = Mapping[str, Array]


def convolved(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return the convolution of maps (B, C, H, W) with (O, C, k, k), k odd, of the same size: zeros stand around."""
    out, _, k, _ = weight.shape
    side = k // 2
    padded = np.pad(x, [(0, 0), (0, 0), (side, side), (side, side)])
    found = np.zeros((x.shape[0], out, *x.shape[2:]))
    for o, i, j in np.ndindex(out, *x.shape[2:]):
        patch = padded[:, :, i : i + k, j : j + k]
        found[:, o, i, j] = (patch * weight[o]).sum((1, 2, 3)) + (0.0 if bias is None else bias[o])
    return found


def batch_normed(x: Array, weight: Array, bias: Array) -> Array:
    """Return each channel less its mean over the batch and all pixels, over its standard deviation (of n): training."""
    found = np.zeros_like(x)
    for c in range(x.shape[1]):
        mean, variance = x[:, c].mean(), ((x[:, c] - x[:, c].mean()) ** 2).mean()
        found[:, c] = (x[:, c] - mean) / math.sqrt(variance + 1e-5) * weight[c] + bias[c]
    return found


def layer(x: Array, state: State, name: str) -> Array:
    """Return a convolution by its name in the state."""
    return convolved(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(x: Array, state: State, name: str) -> Array:
    return batch_normed(x, state[f"{name}.weight"], state[f"{name}.bias"])


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def pixels(x: Array) -> Iterator[tuple[int, int]]:
    yield from np.ndindex(*x.shape[2:])


def attention_transfer(power: float = 2.0, norm: str = "squared") -> Oracle:
    """Zagoruyko & Komodakis 2017, eq. 2: unit vectors of Σ_c |F_c|^p; "l2" has the paper's distance, unsquared."""

    def attention(x: Array, b: int) -> list[float]:
        q = [sum(abs(x[b, c, i, j]) ** power for c in range(x.shape[1])) for i, j in pixels(x)]
        length = math.sqrt(sum(value**2 for value in q))
        return [value / length for value in q]

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for b in range(len(student)):
            squares = [(s - t) ** 2 for s, t in zip(attention(student, b), attention(teacher, b), strict=True)]
            losses.append(math.sqrt(sum(squares)) / 2 if norm == "l2" else average(squares))
        return average(losses)

    return oracle


def nst_mmd(student: Array, teacher: Array, mask: Array | None) -> float:
    """Huang & Wang 2017, eq. 5 and 8: squared MMD of channels as unit vectors, kernel ⟨a, b⟩²."""

    def unit(x: Array, b: int) -> list[Array]:
        flat = [x[b, c].ravel() for c in range(x.shape[1])]
        return [v / math.sqrt(float(v @ v)) for v in flat]

    def kernel(one: list[Array], other: list[Array]) -> float:
        return average([float(a @ b) ** 2 for a, b in itertools.product(one, other)])

    losses = []
    for b in range(len(student)):
        s, t = unit(student, b), unit(teacher, b)
        losses.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return average(losses)


def channel_wise(temperature: float) -> Oracle:
    """Shu et al. 2021, eq. 3 and 4: T² / C · Σ_c KL of softmaxes over the pixels of a channel."""

    def oracle(student: Array, teacher: Array, mask: Array | None) -> float:
        losses = []
        for b, c in np.ndindex(student.shape[:2]):
            p, q = (softmax(x[b, c].ravel() / temperature) for x in (teacher, student))
            losses.append(kl(p, q))
        return temperature**2 * average(losses)

    return oracle


def vid(eps: float = 1e-5) -> Any:
    """Ahn et al. 2019, eq. 5 and 6: −log q(t | s) without log 2π; μ is three 1×1 convolutions with ReLU between."""

    def oracle(student: Array, teacher: Array, mask: Array | None, state: State) -> float:
        x = relu(layer(student, state, "stages.0.mean.0"))
        x = relu(layer(x, state, "stages.0.mean.2"))
        mean = layer(x, state, "stages.0.mean.4")
        variance = [math.log(1 + math.exp(a)) + eps for a in state["stages.0.spread"]]
        gaps = ((place[1], mean[place] - teacher[place]) for place in np.ndindex(teacher.shape))
        return average([0.5 * (gap**2 / variance[c] + math.log(variance[c])) for c, gap in gaps])

    return oracle


def margin(weight: float, bias: float) -> float:
    """Heo et al. 2019, section 3.1: E[x | x < 0] of x ~ N(β, γ²); where hardly any x is, −3|γ| as the authors have."""
    scale = abs(weight)
    below = 0.5 * (1 + math.erf(-bias / scale / math.sqrt(2)))
    density = math.exp(-((bias / scale) ** 2) / 2) / math.sqrt(2 * math.pi)
    return bias - scale * density / below if below > 0.001 else -3 * scale


def overhaul(norms: list[tuple[list[float], list[float]]]) -> Any:
    """Heo et al. 2019, eq. 1 to 3: squares where s > t' or t' > 0; the deepest stage counts 1, the one above ½.

    `norms`: γ and β of the teacher's batch norm of each stage.
    """

    def oracle(student: Any, teacher: Any, mask: Array | None, state: State) -> float:
        total = 0.0
        for k, (weight, bias) in enumerate(norms):
            s = norm(layer(student[k], state, f"stages.{k}.connector.0"), state, f"stages.{k}.connector.1")
            for place in np.ndindex(s.shape):
                t = max(teacher[k][place], margin(weight[place[1]], bias[place[1]]))
                if s[place] > t or t > 0:
                    total += (s[place] - t) ** 2 / len(s) / 2 ** (len(norms) - 1 - k)
        return total

    return oracle


def afd(student: Array, teacher: Array, mask: Array | None, state: State) -> float:
    """Wang et al. 2020, eq. 5 and 6, ρ a bottleneck of 1×1 convolutions as in KD-Zoo; eps is added to the norm."""
    losses = []
    for b, (s, t) in enumerate(zip(student, teacher, strict=True)):
        pooled = teacher[b : b + 1].mean((2, 3), keepdims=True)
        hidden = relu(layer(pooled, state, "stages.0.attention.0"))
        rho = [1 / (1 + math.exp(-x)) for x in layer(hidden, state, "stages.0.attention.2").ravel()]
        for c, share in enumerate(rho):
            unit = [x[c] / (math.sqrt((x[c] ** 2).sum()) + 1e-6) for x in (s, t)]
            losses.append(share / sum(rho) * average(list(((unit[0] - unit[1]) ** 2).ravel())))
    return sum(losses) / len(student)


def masked_generative(masked: float, per: str, seed: int, rows: Any) -> Any:
    """Yang et al. 2022, eq. 3 and 4: Σ (G(M ⊙ align(s)) − t)² / B, M zero with probability λ.

    Only the random numbers are the library's; each sample has its own.
    """

    def oracle(student: Array, teacher: Array, mask: Array | None, state: State) -> float:
        aligned = layer(student, state, "align")
        batch, channels, height, width = aligned.shape
        shape = (batch, 1, height, width) if per == "pixel" else (batch, channels, 1, 1)
        noise = uniform(shape, seed, rows).numpy()
        kept = np.array([0.0 if value < masked else 1.0 for value in noise.ravel()]).reshape(shape)
        made = layer(relu(layer(aligned * kept, state, "generate.0")), state, "generate.2")
        return sum((made[place] - teacher[place]) ** 2 for place in np.ndindex(made.shape)) / batch

    return oracle


def vkd(student: Array, teacher: Array, mask: Array | None) -> float:
    """Miles et al. 2024: smooth L1 of the (projected) student and the teacher's vector, layer-normalised."""
    losses = []
    for s, t in zip(student, teacher, strict=True):
        mean = sum(t) / len(t)
        deviation = math.sqrt(sum((t - mean) ** 2) / len(t) + 1e-5)
        losses += [smooth_l1(a - (b - mean) / deviation) for a, b in zip(s, t, strict=True)]
    return average(losses)


def span(place: int, size: int, cells: int) -> range:
    """Return the pixels of one cell of an adaptive grid: from ⌊a·n/g⌋ to ⌈(a + 1)·n/g⌉."""
    return range(math.floor(place * size / cells), math.ceil((place + 1) * size / cells))


def pooled(x: Array, cells: int) -> Array:
    """Return means over a square grid, cut as adaptive pooling cuts."""
    found = np.zeros((*x.shape[:2], cells, cells))
    for i, j in np.ndindex(cells, cells):
        rows, columns = list(span(i, x.shape[2], cells)), list(span(j, x.shape[3], cells))
        found[:, :, i, j] = x[:, :, rows][..., columns].mean((2, 3))
    return found


def wkdf(mean_weight: float, grid: int) -> Any:
    """Lv et al. 2024, section 3.2: means and standard deviations (over n − 1, eps 1e-5) of each cell's pixels."""

    def moments(x: Array, b: int, c: int, i: int, j: int) -> tuple[float, float]:
        cell = [x[b, c, k, m] for k in span(i, x.shape[2], grid) for m in span(j, x.shape[3], grid)]
        mean = sum(cell) / len(cell)
        return mean, math.sqrt(sum((value - mean) ** 2 for value in cell) / (len(cell) - 1) + 1e-5)

    def oracle(student: Array, teacher: Array, mask: Array | None, state: State) -> float:
        own = relu(norm(layer(student, state, "stages.0.projector.0"), state, "stages.0.projector.1"))
        total = 0.0
        for place in np.ndindex(*own.shape[:2], grid, grid):
            (mean_s, spread_s), (mean_t, spread_t) = moments(own, *place), moments(teacher, *place)
            total += mean_weight * (mean_s - mean_t) ** 2 + (spread_s - spread_t) ** 2
        return total / (grid**2 * len(own))

    return oracle
