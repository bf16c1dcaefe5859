from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd_lightning.core.errors import CacheError
from kd_lightning.core.hashing import digest
from kd_lightning.core.types import FeatureInfo
from kd_lightning.teachers.cache.manifest import MANIFEST, PLAN, Fingerprint, Manifest, ensure_plan
from kd_lightning.teachers.cache.shard import ShardInfo

HERE = Manifest(
    Fingerprint({"teacher": {"model": "a"}, "data": None}),
    {"": 4, "a/": 2},
    {"logits": FeatureInfo("classes", 3), "encoder.hidden.1": FeatureInfo(None, None, "encoder")},
    [ShardInfo("000-000000.safetensors", 3, 99, 7, "x")],
)


def test_it_is_read_as_it_was_written(tmp_path):
    HERE.save(tmp_path)
    assert Manifest.open(tmp_path) == HERE


def test_one_of_the_first_version_still_opens(tmp_path):
    """It has widths only; the kinds are those that addresses tell."""
    plain = {
        "format": 1,
        "fingerprint": {"data": None},
        "stacks": {"": 2},
        "widths": {"logits": 3, "a/attention.1": None, "hidden.1": 16},
        "shards": [],
    }
    (tmp_path / MANIFEST).write_text(json.dumps(plain | {"check": digest(plain)}))
    assert Manifest.open(tmp_path).features == {
        "logits": FeatureInfo("classes", 3),
        "a/attention.1": FeatureInfo("attention"),
        "hidden.1": FeatureInfo(None, 16),
    }


def edited(folder: Path, **fields: object) -> None:
    HERE.save(folder)
    plain = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(plain | fields))


def test_another_format_raises_an_error(tmp_path):
    edited(tmp_path, format=99)
    with pytest.raises(CacheError, match=r"has format 99, and this version reads 1\. Delete it"):
        Manifest.open(tmp_path)


@pytest.mark.parametrize("field", ["fingerprint", "stacks", "widths", "kinds", "shards", "check"])
def test_an_edited_manifest_raises_an_error(tmp_path, field):
    edited(tmp_path, **{field: {"edited": 1}})
    with pytest.raises(CacheError, match=r"manifest\.json has changed since it was written.*keeps the shards"):
        Manifest.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1', b"[1]", b"3", b"null", b"\xff\xfe\x00"])
@pytest.mark.parametrize(("name", "advice"), [(MANIFEST, "Delete it and build"), (PLAN, "Delete the folder")])
def test_a_truncated_manifest_raises_an_error(tmp_path, content, name, advice):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CacheError, match=rf"{name} cannot be read \(.*\)\. {advice}"):
        Manifest.open(tmp_path, name)


def test_no_folder_names_the_closest(tmp_path):
    (tmp_path / "sst2_cache").mkdir()
    HERE.save(tmp_path / "sst2_cache")
    with pytest.raises(CacheError, match=r"There is no teacher cache in .*sst2_cahe\. Closest: .*sst2_cache\."):
        Manifest.open(tmp_path / "sst2_cahe")
    with pytest.raises(CacheError, match=r"There is no teacher cache in .*Make one with TeacherCache\.build"):
        Manifest.open(tmp_path / "elsewhere" / "x")


def test_an_unfinished_cache_raises_an_error(tmp_path):
    ensure_plan(tmp_path / "c", HERE)
    with pytest.raises(CacheError, match="is not finished: build it again, which continues from there"):
        Manifest.open(tmp_path / "c")


def test_a_plan_is_compared_with_what_is_in_the_folder(tmp_path):
    other = Manifest(Fingerprint({"teacher": {"model": "b"}, "data": None}), {}, {})
    ensure_plan(tmp_path / "c", other)
    ensure_plan(tmp_path / "c", HERE)  # where nothing was written yet, there may be another plan
    (tmp_path / "c" / "000-000000.safetensors").write_text("")
    ensure_plan(tmp_path / "c", HERE)
    with pytest.raises(
        CacheError, match=r"made from something else: teacher \(\{'model': 'a'\} there, \{'model': 'b'\}"
    ):
        ensure_plan(tmp_path / "c", other)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("")
    with pytest.raises(CacheError, match=r"d holds other things \('thesis\.tex'\)"):
        ensure_plan(tmp_path / "d", HERE)
    with pytest.raises(CacheError, match=r"thesis\.tex is a file"):
        ensure_plan(tmp_path / "d" / "thesis.tex", HERE)
    assert (tmp_path / "d" / "thesis.tex").read_text() == ""
