"""From features to what is stored of them, and back: without padding; most are one column, cut logits are three."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kd_lightning.core.errors import CacheError, ConfigError, hint
from kd_lightning.core.types import Features, Kind
from kd_lightning.features.addresses import address_kind
from kd_lightning.functional.precision import widen

Columns: TypeAlias = dict[str, Tensor]
"""What is stored, by `address` or `address#part`: (B, …) each."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Where each row's tokens begin and how many there are."""

TOKEN_AXES: dict[tuple[Kind, int], tuple[int, ...]] = {
    ("tokens", 3): (1,),
    ("heads", 4): (2,),
    ("attention", 4): (2, 3),
    ("classes", 3): (1,),
    ("positions", 2): (1,),
}
"""By kind and number of axes: those over tokens."""


class Codec:
    """Turns the features of a batch into columns, and columns into features; learns the layouts from the first batch.

    Args:
        dtype: `bf16`, `fp16` or `fp32`, of all that is stored but indices and rest masses of cut logits.
        top_k: how many logits over classes or words are kept of each row; None: all.
        kinds: what the axes of features are, by address; of others the address decides.

    Raises:
        ConfigError: if the dtype is unknown, or `top_k` is no positive integer.

    """

    def __init__(
        self, dtype: str = "bf16", top_k: int | None = None, kinds: Mapping[str, Kind | None] | None = None
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"Unknown dtype '{dtype}' of a teacher cache. {hint(str(dtype), DTYPES)}")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ConfigError(f"Expected argument `top_k` to be a number of logits, from 1, but got {top_k!r}.")
        self.dtype = dtype
        self.top_k = top_k
        self.kinds = dict(kinds or {})
        self.layouts: dict[str, Layout] = {}
        self.cut: dict[str, TopK] = {}

    def pack(self, features: Features, mask: Tensor | None, rows: int) -> Columns:
        """Return the columns of a batch's features.

        Args:
            features: of a batch.
            mask: which tokens are real, where rows have tokens.
            rows: of the batch.

        Raises:
            CacheError: if a feature does not belong to single rows, the dtype cannot hold a value, or rows differ in
                shape and there is no mask.

        """
        columns: Columns = {}
        for address, feature in features.items():
            if feature.ndim == 0 or len(feature) != rows:
                raise CacheError(
                    f"'{address}' has the shape {list(feature.shape)} for {rows} rows, and a cache keeps features of "
                    "single rows: the first axis must run over them."
                )
            if not feature.is_floating_point():
                raise CacheError(
                    f"'{address}' has values of {feature.dtype}, and a cache keeps floating-point values only."
                )
            for column, part in self._parts(address, feature).items():
                kind = self._kind(address)
                layout = Layout.of(kind, part, mask) if part.ndim == feature.ndim else self._of_rest(address, part)
                check_same(address, self.layouts.setdefault(column, layout), layout)
                columns[column] = part
        return columns

    def _of_rest(self, address: str, part: Tensor) -> Layout:
        return Layout(self.layouts[f"{address}#values"].dims[:-1])  # one number per row of logits

    def _kind(self, address: str) -> Kind | None:
        return self.kinds.get(address) or address_kind(address)

    def _parts(self, address: str, feature: Tensor) -> Columns:
        cut = self.top_k is not None and self._kind(address) == "classes" and feature.ndim > 1
        if self.top_k is None or not cut or feature.shape[-1] <= self.top_k + 1:
            return {address: self._stored(address, feature)}
        top = self.cut.setdefault(address, TopK(self.top_k, feature.shape[-1]))
        parts = top.pack(feature)
        parts["values"] = self._stored(address, parts["values"])
        return {f"{address}#{name}": part for name, part in parts.items()}

    def _stored(self, address: str, feature: Tensor) -> Tensor:
        stored = feature.to(DTYPES[self.dtype])
        if not torch.equal(stored.isfinite(), feature.isfinite()):
            wider = "bf16" if self.dtype == "fp16" else "fp32"
            raise CacheError(
                f"'{address}' has values beyond what {self.dtype} can hold. Build the cache with dtype='{wider}'."
            )
        return stored

    def unpack(self, address: str, read: Callable[[str], Tensor]) -> Tensor:
        """Return a feature from its columns, which `read` gives by name."""
        if address not in self.cut:
            return read(address)
        return self.cut[address].unpack({part: read(f"{address}#{part}") for part in ("values", "indices", "rest")})

    def dtype_of(self, column: str) -> torch.dtype:
        """Return what a column is stored as: indices of cut logits are integers, and rest masses float32."""
        kept = {"indices": torch.int32, "rest": torch.float32}
        return kept.get(column.partition("#")[2], DTYPES[self.dtype])

    def width(self, address: str, kind: Kind | None = None) -> int | None:
        """Return the width of a stored feature: channels of maps, else the last axis; None where that counts tokens."""
        if address in self.cut:
            return self.cut[address].classes
        dims = self.layouts[address].dims
        if not dims or kind in ("attention", "positions"):
            return None
        return dims[0] if kind == "map" else dims[-1]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The features that are stored."""
        return tuple(dict.fromkeys(column.partition("#")[0] for column in self.layouts))

    def metadata(self) -> dict[str, str]:
        """Return all that is needed to read the columns, as a safetensors file keeps it."""
        plain = {
            "dtype": self.dtype,
            "layouts": {column: layout.dims for column, layout in self.layouts.items()},
            "top_k": {address: [top.k, top.classes] for address, top in self.cut.items()},
        }
        return {"kd_lightning": json.dumps(plain, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Codec:
        """Return the codec that wrote some metadata."""
        plain = json.loads(metadata["kd_lightning"])
        codec = cls(plain["dtype"])
        codec.layouts = {column: Layout(tuple(dims)) for column, dims in plain["layouts"].items()}
        codec.cut = {address: TopK(k, classes) for address, (k, classes) in plain["top_k"].items()}
        return codec


@dataclass(frozen=True)
class Layout:
    """The shape of one row's feature; None stands for an axis that is as long as the row has tokens.

    Example:
        >>> Layout((12, None, None)).shape(5), Layout((None, 384)).sizes(np.array([2, 3])).tolist()
        ((12, 5, 5), [768, 1152])

    """

    dims: tuple[int | None, ...]

    @classmethod
    def of(cls, kind: Kind | None, feature: Tensor, mask: Tensor | None) -> Layout:
        """Tell which axes of a feature (B, …) run over tokens, those of a (B, L) mask: none without a mask."""
        axes = () if mask is None else _token_axes(kind, feature, mask)
        return cls(tuple(None if axis in axes else size for axis, size in enumerate(feature.shape) if axis))

    def shape(self, tokens: int) -> tuple[int, ...]:
        """Return the shape of a row of so many tokens."""
        return tuple(tokens if size is None else size for size in self.dims)

    @property
    def per_token(self) -> int:
        """The number of elements where every row has one token."""
        return math.prod(size for size in self.dims if size is not None)

    @property
    def token_axes(self) -> int:
        """The number of axes over tokens."""
        return self.dims.count(None)

    def sizes(self, tokens: np.ndarray) -> np.ndarray:
        """Return the number of elements of each row."""
        return self.per_token * tokens.astype(np.int64) ** self.token_axes

    def part(self, start: int, tokens: int) -> tuple[slice, ...]:
        """Return where a row's tokens are in a padded row."""
        return tuple(slice(start, start + tokens) if size is None else slice(None) for size in self.dims)

    def cut(self, feature: Tensor, spans: Spans, rows: Sequence[int]) -> list[Tensor]:
        """Return some rows of a feature (B, …) without their padding, flat."""
        return [feature[row][self.part(*spans[row])].reshape(-1) for row in rows]


def _token_axes(kind: Kind | None, feature: Tensor, mask: Tensor) -> tuple[int, ...]:
    """Return the axes over tokens of the mask; none where the first is of another length (tokens of a decoder)."""
    axes = _guess(feature, mask) if kind is None else TOKEN_AXES.get((kind, feature.ndim), ())
    length = mask.shape[1]
    if not axes or len(feature) != len(mask) or feature.shape[axes[0]] != length:
        return ()
    return tuple(axis for axis in axes if feature.shape[axis] == length)


def _guess(feature: Tensor, mask: Tensor) -> tuple[int, ...]:
    """Return which axes of a feature of unknown kind run over tokens, if they are as long as the mask."""
    if feature.ndim != 4:
        return (1,) if feature.ndim == 3 else ()
    if feature.shape[2:] != (mask.shape[1], mask.shape[1]):
        return (2,)
    # If it is attention, nothing attends to padding; if it only is as wide as the batch is long, there are values that
    # must not be cut off.
    padding = ~mask.bool()[:, None, None, :]
    return (2,) if bool((padding & (feature != 0)).any()) else (2, 3)


def spans_of(mask: Tensor | None, rows: int) -> list[tuple[int, int]]:
    """Return where each row's tokens start and how many there are, up to its last; without a mask no row has tokens.

    Example:
        >>> import torch
        >>> spans_of(torch.tensor([[0, 1, 1], [1, 0, 0]]), rows=2)
        [(1, 2), (0, 1)]

    """
    if mask is None:
        return [(0, 0)] * rows
    real = mask.bool().cpu().numpy()
    first, last = real.argmax(1), real.shape[1] - real[:, ::-1].argmax(1)
    tokens = np.where(real.any(1), last - first, 0)
    return list(zip(first.tolist(), tokens.tolist(), strict=True))


def check_same(address: str, known: Layout, now: Layout) -> None:
    """Compare the shapes of a feature's rows in two batches.

    Raises:
        CacheError: if they differ; with both shapes.

    """
    if known != now:
        raise CacheError(
            f"'{address}' has rows of shape {list(now.dims)} in one batch and {list(known.dims)} in another. Rows of "
            "different lengths need an 'attention_mask' in the batch, which marks their tokens."
        )


@dataclass(frozen=True)
class TopK:
    """Keeps k of C logits with their indices, and the log of the summed exponentials of the rest.

    Unpacked, the rest share that mass evenly: at temperature 1 the k largest have their exact probabilities, and all
    others together have theirs. At another temperature the evenly shared rest is an approximation.

    Args:
        k: how many logits are kept.
        classes: C.

    Example:
        >>> import torch
        >>> top = TopK(k=1, classes=3)
        >>> z = torch.tensor([[2.0, 0.0, 0.0]])
        >>> torch.equal(top.unpack(top.pack(z)).softmax(-1), z.softmax(-1))
        True

    """

    k: int
    classes: int

    def pack(self, logits: Tensor) -> dict[str, Tensor]:
        """Return `values` and `indices` (…, k) and the `rest` (…) of logits (…, C)."""
        values, indices = widen(logits).topk(self.k, dim=-1)
        rest = widen(logits).scatter(-1, indices, float("-inf")).logsumexp(-1)
        return {"values": values, "indices": indices.int(), "rest": rest.float()}

    def unpack(self, parts: dict[str, Tensor]) -> Tensor:
        """Return logits (…, C), float32."""
        each = parts["rest"] - math.log(self.classes - self.k)
        logits = each.unsqueeze(-1).expand(*each.shape, self.classes)
        return logits.scatter(-1, parts["indices"].long(), parts["values"].float())
