from __future__ import annotations

import logging
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache import forecast as module
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.forecast import Forecast, forecast

from ...toys import bert
from .making import build, in_batches, shuffled, token_rows


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Forecast(1, 10, 3), "1 rows, about 10 bytes and 3 s"),
        (Forecast(12_345, 1_500, 89), "12,345 rows, about 1.5 kB and 89 s"),
        (Forecast(2, 2_500_000, 120), "2 rows, about 2.5 MB and 2 min"),
        (Forecast(2, 3_000_000_000_000, 7200), "2 rows, about 3.0 TB and 2.0 h"),
    ],
)
def test_it_reads_well(made, text):
    assert str(made) == text


def test_stored_rows_are_not_forecast():
    assert Forecast(100, 1000, 10).without(75) == Forecast(25, 250, 2.5)
    assert Forecast(100, 1000, 10).without(300).rows == 0


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(in_batches(token_rows(), 4))


def told(codec: Codec, loader: Any, padded: int, tokens: int = 6) -> Forecast:
    return forecast(codec, loader, np.full(4, tokens), padded, seconds=2.0, processes=2)


def test_rows_are_counted_in_every_kind_of_loader():
    codec = Codec("fp32")
    codec.pack({"logits": torch.ones(4, 3)}, None, 4)
    per_row = 3 * 4 + 40
    rows = token_rows(100)
    assert told(codec, DataLoader([0] * 100, batch_size=4), 0) == Forecast(100, 100 * per_row, 25.0)
    assert told(codec, DataLoader([0] * 25, batch_size=None), 0).rows == 100
    assert told(codec, [0] * 10, 0).rows == 80
    for stream in (DataLoader(Stream(), batch_size=None), iter([1])):
        unknown = told(codec, stream, 0)
        assert unknown.endless
        assert str(unknown) == f"an unknown number of rows, about {per_row} bytes and 500.0 ms for each"
        assert unknown.without(3) == unknown
    assert told(codec, shuffled(rows), 0) == Forecast(100, 100 * per_row, 25.0)
    ours = told(codec, shuffled(rows), padded=8)
    assert (ours.rows, ours.bytes) == (100, 100 * per_row)
    assert ours.seconds == pytest.approx(rows.lengths.sum() / (4 * 8) * 2.0 / 2)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_forecast_bytes_are_those_on_disk(tmp_path, caplog, dtype, top_k):
    rows, seen = token_rows(300), []
    addresses = ["hidden.1", "attention.2", "logits"]

    def keep(self: Any, folder: Any) -> None:
        seen.append(self)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "lightning.pytorch"):
        patch.setattr(Forecast, "check_disk", keep)
        cache = build(bert(labels=9), shuffled(rows), tmp_path / "c", addresses, dtype, top_k=top_k)
    assert seen[0].rows == len(cache) == 300
    assert cache.bytes == pytest.approx(seen[0].bytes, rel=0.02, abs=3000)
    assert f"Teacher cache in {tmp_path / 'c'}: 300 rows, about" in caplog.text


def test_what_a_disk_cannot_hold_is_not_begun(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(1000, 500, 500))
    with pytest.raises(CacheError, match=r"needs about \d.* kB, and .*c has 500 bytes free\. Match fewer layers"):
        build(bert(), in_batches(token_rows(), 4), tmp_path / "c", ["hidden.1"])
    assert not list((tmp_path / "c").glob("*.safetensors"))
