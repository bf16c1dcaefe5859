from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import kd_lightning as kd
from kd_lightning.core.errors import CacheError
from kd_lightning.teachers.cache.manifest import Manifest
from kd_lightning.teachers.cache.rows import rows_of

from ...toys import bert
from .making import build, cached, in_batches, token_rows

ASKED = ["hidden.1", "logits"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """A cache of three shards."""
    folder = tmp_path_factory.mktemp("store") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_lightning.teachers.cache.shard.SHARD_BYTES", 1)
        build(bert(), in_batches(token_rows(), 4), folder, ASKED)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "c"))


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"000-{number:06d}.safetensors"


def test_its_rows_addresses_and_files(made):
    cache = kd.TeacherCache(made)
    assert (len(cache), cache.addresses, cache.sample_ids.tolist()) == (12, ("hidden.1", "logits"), list(range(12)))
    assert cache.bytes == sum(path.stat().st_size for path in made.glob("*.safetensors"))
    assert sorted(path.name for path in made.iterdir()) == sorted(
        ["manifest.json", "plan.json", *(shard(made, i).name + end for i in range(3) for end in ("", ".json"))]
    )


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 9, -1, -100])
def test_a_flipped_bit_is_refused(folder, place):
    flip(shard(folder), place)
    with pytest.raises(CacheError, match=r"000-000001\.safetensors has changed since it was written"):
        kd.CachedTeacher(folder)


@pytest.mark.parametrize("verify", [True, False])
def test_a_cut_shard_is_refused_even_unverified(folder, verify):
    shard(folder).write_bytes(shard(folder).read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"000-000001\.safetensors has [\d,]+ bytes instead of [\d,]+"):
        kd.CachedTeacher(folder, verify=verify)


def test_a_missing_shard_is_refused(folder):
    shard(folder).unlink()
    with pytest.raises(CacheError, match=r"000-000001\.safetensors is missing; delete the file and build"):
        kd.CachedTeacher(folder, verify=False)


def test_a_shard_of_another_cache_is_refused(folder, tmp_path):
    build(bert(seed=3), in_batches(token_rows(), 12), tmp_path / "other", ASKED)
    for end in ("", ".json"):
        shutil.copy(f"{shard(tmp_path / 'other', 0)}{end}", f"{shard(folder, 7)}{end}")
    with pytest.raises(CacheError, match=r"000-000007\.safetensors is of another teacher cache"):
        build(bert(), in_batches(token_rows(), 4), folder, ASKED)
    shutil.copy(shard(tmp_path / "other", 0), shard(folder, 1))
    with pytest.raises(CacheError, match="bytes instead of"):
        kd.CachedTeacher(folder)


def test_other_files_in_the_folder_are_ignored(folder):
    (folder / "notes.txt").write_text("mine")
    assert len(kd.TeacherCache(folder)) == 12
    assert len(build(bert(), in_batches(token_rows(), 4), folder, ASKED)) == 12


def test_reading_does_not_need_the_info_files(folder):
    for path in folder.glob("*.safetensors.json"):
        path.unlink()
    assert len(kd.TeacherCache(folder)) == 12


def test_rows_it_does_not_hold_are_named(made):
    teacher = cached(made, ["logits"])
    with pytest.raises(CacheError, match=r"Row 12 \(its sample_id\) is not in the teacher cache .*12 rows, 0 to 11"):
        teacher(in_batches(token_rows(14), 14)[0])
    batch = in_batches(token_rows(), 4)[0]
    with pytest.raises(CacheError, match=r"Row -1 "):
        teacher(batch | {"sample_id": batch["sample_id"] - 1})


@pytest.mark.parametrize("change", ["text", "tokenizer", "longer", "order"])
def test_rows_with_other_inputs_raise_an_error(made, change):
    batch = in_batches(token_rows(), 12)[0]
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"].clone()
    if change == "text":
        ids[5, 0] += 1
    elif change == "tokenizer":
        ids = (ids * 7) % 30
    elif change == "longer":
        row = int((mask.sum(1) < 8).nonzero()[0])
        mask[row] = 1
    numbers = batch["sample_id"].flip(0) if change == "order" else batch["sample_id"]
    with pytest.raises(
        CacheError, match=r"Row \d+ does not look as it did when the teacher cache .* was made: other data"
    ):
        cached(made, ["logits"])({"input_ids": ids, "attention_mask": mask, "sample_id": numbers})


def test_a_row_may_occur_twice_in_a_batch(made):
    batch = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in in_batches(token_rows(), 4)[0].items()}
    found = cached(made, ASKED)(batch)
    assert all(torch.equal(feature[:4], feature[4:]) for feature in found.values())


class Reading(Dataset[Any]):
    def __init__(self, cache: kd.TeacherCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.cache.read(rows_of(in_batches(token_rows(), 4)[number]), ["logits"])["logits"]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_may_read(made, start):
    cache = kd.TeacherCache(made)
    options: dict[str, Any] = {"multiprocessing_context": multiprocessing.get_context(start), "num_workers": 1}
    read = torch.cat(list(DataLoader(Reading(cache), batch_size=None, **options)))
    assert torch.equal(read, cached(made, ["logits"])(in_batches(token_rows(), 12)[0])["logits"])


def own_memory() -> int:
    """Bytes of this process that no file is behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_does_not_grow_with_the_cache(tmp_path):
    wide = torch.nn.Linear(8, 20_000)
    batches = [{"x": torch.rand(50, 8), "sample_id": torch.arange(50 * i, 50 * i + 50)} for i in range(20)]
    source = kd.LiveTeacher(wide, adapter=kd.Adapter(inputs=lambda batch: batch["x"]))
    assert build(source, batches, tmp_path / "c", ["logits"]).bytes > 75e6
    kd.TeacherCache(tmp_path / "c")  # whatever is loaded once
    before = own_memory()
    teacher = cached(tmp_path / "c", ["logits"])
    for batch in batches:
        assert teacher(batch)["logits"].shape == (50, 20_000)
    assert own_memory() - before < 16e6


def test_a_cache_can_be_of_no_tokens_at_all(tmp_path):
    batch = {
        "input_ids": torch.ones(2, 3).long(),
        "attention_mask": torch.zeros(2, 3).long(),
        "sample_id": torch.arange(2),
    }
    build(bert(), [batch], tmp_path / "c", ["hidden.1"])
    assert torch.equal(cached(tmp_path / "c", ["hidden.1"])(batch)["hidden.1"], torch.zeros(2, 3, 16))
    assert np.array_equal(kd.TeacherCache(tmp_path / "c").sample_ids, [0, 1])


def test_a_manifest_that_names_a_shard_of_another_cache_is_refused(folder):
    manifest = Manifest.open(folder)
    manifest.shards[1] = replace(manifest.shards[1], made_from="another")
    manifest.save(folder)
    with pytest.raises(CacheError, match=rf"{shard(folder)} is of another teacher cache"):
        kd.TeacherCache(folder)
