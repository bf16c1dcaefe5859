from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.columns import Codec
from kd_lightning.teachers.cache.shard import ROW_COLUMNS, Shard, finished_shards, next_number, write_shard


def written(folder: Path, name: str = "000-000000.safetensors", made_from: str = "me") -> Path:
    """Write two rows, of 2 and 3 tokens, whose values tell row, token and place."""
    codec = Codec("fp32")
    codec.pack({"tokens": torch.zeros(2, 3, 2), "attention.1": torch.zeros(2, 1, 3, 3)}, torch.ones(2, 3), 2)
    book = [torch.tensor([4, 9]), torch.tensor([2, 3]), torch.tensor([1, 2]), torch.ones(2, 4)]
    columns = {"tokens": torch.arange(10.0), "attention.1": torch.arange(13.0)}
    write_shard(folder, name, dict(zip(ROW_COLUMNS, book, strict=True)) | columns, codec, made_from)
    return folder / name


def test_rows_are_read_as_they_were_written(tmp_path):
    """Also those of an address that is called like a thing the book has."""
    shard = Shard(written(tmp_path))
    assert (shard.ids.tolist(), shard.tokens.tolist()) == ([4, 9], [2, 3])
    assert shard.block("tokens", 0).tolist() == [[0, 1], [2, 3]]
    assert shard.block("tokens", 1).tolist() == [[4, 5], [6, 7], [8, 9]]
    assert shard.block("attention.1", 0).tolist() == [[[0, 1], [2, 3]]]
    assert shard.block("attention.1", 1).flatten().tolist() == list(range(4, 13))


def test_only_a_shard_with_both_files_is_finished(tmp_path):
    path = written(tmp_path)
    (info,) = finished_shards(tmp_path, "me")
    assert (info.name, info.rows, info.bytes) == (path.name, 2, path.stat().st_size)
    note = path.with_name(f"{path.name}.json")
    note.rename(tmp_path / "elsewhere")
    assert finished_shards(tmp_path, "me") == []
    (tmp_path / "elsewhere").rename(note)
    path.unlink()
    assert finished_shards(tmp_path, "me") == []


def test_shard_numbers_are_unique(tmp_path):
    for number in (0, 1, 2):
        written(tmp_path, f"001-{number:06d}.safetensors")
    (tmp_path / "001-000000.safetensors").unlink()  # as a damaged one is, on advice
    assert (next_number(tmp_path, 1), next_number(tmp_path, 0)) == (3, 0)


def test_a_shard_of_another_cache_raises_an_error(tmp_path):
    written(tmp_path, made_from="other")
    with pytest.raises(CacheError, match=r"000-000000\.safetensors is of another teacher cache"):
        finished_shards(tmp_path, "me")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "x", "rows": 1}', "\x00"])
def test_a_damaged_info_file_raises_an_error(tmp_path, content):
    written(tmp_path).with_suffix(".safetensors.json").write_text(content)
    with pytest.raises(CacheError, match=r"safetensors\.json is damaged .*delete the file and build"):
        finished_shards(tmp_path, "me")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard")
    return written(folder), finished_shards(folder, "me")[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_detected(one, place, bit):
    path, info = one
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        with pytest.raises(CacheError, match=r"has changed since it was written .*delete the file"):
            info.check(path.parent, whole=True)
        with suppress(CacheError):
            Shard(path)  # unverified, it opens or says why not
    finally:
        path.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_detected_without_reading(one, kept):
    path, info = one
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    try:
        with pytest.raises(CacheError, match="bytes instead of"):
            info.check(path.parent, whole=False)
        with pytest.raises(CacheError, match="bytes instead of"):
            finished_shards(path.parent, "me")
    finally:
        path.write_bytes(whole)


def test_a_missing_file_raises_an_error(one, tmp_path):
    with pytest.raises(CacheError, match=r"000-000000\.safetensors is missing"):
        one[1].check(tmp_path, whole=False)


def test_a_full_disk_raises_an_error_and_leaves_nothing_finished(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=r"Cannot write .* \(No space left on device\): make room.* stays"):
        written(tmp_path)
    assert finished_shards(tmp_path, "me") == []


def test_no_file_is_pickled_code(tmp_path):
    from safetensors.numpy import load_file

    loaded = load_file(written(tmp_path))
    assert set(loaded) == {*ROW_COLUMNS, "tokens", "attention.1"}
    assert all(isinstance(value, np.ndarray) for value in loaded.values())
