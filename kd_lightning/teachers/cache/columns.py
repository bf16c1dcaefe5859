"""From features to what is stored of them, and back: most are one column, cut logits are three."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from kd_lightning.core.errors import CacheError, ConfigError, hint
from kd_lightning.core.types import Features, Kind
from kd_lightning.features.addresses import address_kind
from kd_lightning.teachers.cache.layout import Layout, check_same
from kd_lightning.teachers.cache.top_k import TopK

Columns: TypeAlias = dict[str, Tensor]
"""What is stored, by `address` or `address#part`: (B, …) each."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Codec:
    """Turns the features of a batch into columns, and columns into features; learns the layouts as it goes.

    Args:
        dtype: `bf16`, `fp16` or `fp32`, of all that is stored but places and rest masses of cut logits.
        top_k: how many logits over classes or words are kept of each row; None: all.
        kinds: what the axes of features are, by address; of others as far as the address tells.

    Raises:
        ConfigError: for another dtype or no positive number.

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
            CacheError: what is no feature of single rows, a value that the dtype cannot hold, or rows of unlike shapes
                without a mask.

        """
        columns: Columns = {}
        for address, feature in features.items():
            _check_by_row(address, feature, rows)
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
        """Return what a column is stored as: places of cut logits are whole numbers, and rest masses float32."""
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

    def notes(self) -> dict[str, str]:
        """Return all that is needed to read the columns, as text."""
        plain = {
            "dtype": self.dtype,
            "layouts": {column: layout.dims for column, layout in self.layouts.items()},
            "top_k": {address: [top.k, top.classes] for address, top in self.cut.items()},
        }
        return {"kd_lightning": json.dumps(plain, sort_keys=True)}

    @classmethod
    def of(cls, notes: dict[str, str]) -> Codec:
        """Return a codec for what `notes` describe."""
        plain = json.loads(notes["kd_lightning"])
        codec = cls(plain["dtype"])
        codec.layouts = {column: Layout(tuple(dims)) for column, dims in plain["layouts"].items()}
        codec.cut = {address: TopK(k, classes) for address, (k, classes) in plain["top_k"].items()}
        return codec


def _check_by_row(address: str, feature: Tensor, rows: int) -> None:
    if feature.ndim == 0 or len(feature) != rows:
        raise CacheError(
            f"'{address}' has the shape {list(feature.shape)} for {rows} rows, and a cache keeps what belongs to "
            "single rows: features whose first axis runs over them."
        )
    if not feature.is_floating_point():
        raise CacheError(f"'{address}' has values of {feature.dtype}, and a cache keeps fractions only.")
