"""Building: what is refused, what stays after an end in the middle, and many who build at once."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, CacheError, ConfigError
from kd_lightning.data import Delete, Loader, Padding, TrainBatches
from kd_lightning.data.text.augmented_rows import AugmentedRows
from kd_lightning.data.text.synthetic import word_tokenizer

from ... import processes
from ...toys import bert, hooks_on, mlp, pairs, same, weights, words
from .making import Counting, build, cached, in_batches, live, shuffled, token_rows

SCRIPT = Path(__file__).parents[2] / "cache_builder.py"


@pytest.mark.parametrize("addresses", ["logits", [], ()])
def test_addresses_are_a_list(tmp_path, addresses):
    with pytest.raises(ConfigError, match=r"Expected argument `addresses` to be a list such as \['logits'\]"):
        build(bert(), in_batches(token_rows(), 4), tmp_path / "c", addresses)


def test_features_the_teacher_lacks_are_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(AddressError, match=r"hidden\.9"):
        build(bert(), in_batches(token_rows(), 4), tmp_path / "c", ["hidden.9"])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("change", ["teacher", "dtype", "top_k", "addresses", "data", "config"])
def test_another_cache_in_the_folder_is_refused_by_what_differs(tmp_path, change):
    batches = in_batches(token_rows(), 4)
    build(bert(), batches, tmp_path / "c", ["logits"])
    teacher, addresses, more = bert(), ["logits"], {}
    if change == "teacher":
        with torch.no_grad():
            teacher.classifier.weight[1, 2] += 1e-6
    elif change == "config":
        teacher.config.layer_norm_eps = 1e-5
    elif change == "addresses":
        addresses.append("hidden.1")
    else:
        more = {change: {"dtype": "bf16", "top_k": 1, "data": "x"}[change]}
    with pytest.raises(CacheError, match=rf"something else: {change if change != 'config' else 'teacher'} \("):
        build(teacher, batches, tmp_path / "c", addresses, **more)


def test_order_of_addresses_is_no_difference(tmp_path):
    batches = in_batches(token_rows(), 4)
    build(bert(), batches, tmp_path / "c", ["logits", "hidden.1"])
    again = build(bert(), batches, tmp_path / "c", ["hidden.1", "logits", "hidden.1"])
    assert again.fingerprint == kd.TeacherCache.fingerprint_of(bert(), ["hidden.1", "hidden.1", "logits"], dtype="fp32")


def test_augmented_rows_are_refused(tmp_path):
    augmented = AugmentedRows(token_rows(), [Delete(0.3)], word_tokenizer())
    batches = TrainBatches(augmented.lengths, batch_size=4, with_view=True)
    loader = Loader(augmented, batches, Padding({"input_ids": 0}))
    with pytest.raises(CacheError, match="rows are augmented at random"):
        build(bert(), loader, tmp_path / "c", ["logits"])


class Mirrored(torch.utils.data.Dataset[Any]):
    """Pictures that are mirrored half of the time, by Python's own chance, as torchvision's transforms do."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> dict[str, Any]:
        x = torch.arange(4.0) + row
        return {"input": x.flip(0) if self.random.random() < 0.5 else x, "sample_id": row}


def test_a_picture_folder_with_random_transforms_is_refused(tmp_path):
    with pytest.raises(CacheError, match="rows are augmented at random"):
        build(mlp(5), DataLoader(Mirrored(), batch_size=5), tmp_path / "c", ["logits"])


def test_randomness_in_the_collate_function_is_detected_when_rows_are_read_again(tmp_path):
    def noisy(rows: list[Any]) -> dict[str, Tensor]:
        batch = Padding({"input_ids": 0})(rows)
        return batch | {"input_ids": batch["input_ids"] * torch.randint(0, 2, batch["input_ids"].shape)}

    rows = token_rows(40)
    loader, model = Loader(rows, TrainBatches(rows.lengths, batch_size=4), noisy), bert()
    build(model, loader, tmp_path / "c", ["logits"])
    with pytest.raises(CacheError, match=r"does not look as it did.*random augmentation"):
        cached(tmp_path / "c", ["logits"])(next(iter(loader)))
    with pytest.raises(CacheError, match="came twice and looked different"):
        build(model, loader, tmp_path / "c", ["logits"])


class Restless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Neighbourly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T


@pytest.mark.parametrize("model", [Restless(), Neighbourly()], ids=["chance", "company"])
def test_a_teacher_whose_answers_are_not_those_of_single_rows_is_refused(tmp_path, model):
    batch = {"x": pairs(6)[0], "sample_id": torch.arange(6)}
    with pytest.raises(CacheError, match="'logits' of a row changes with the order of the rows in a batch"):
        build(model, [batch], tmp_path / "c", ["logits"])


def test_batches_without_sample_ids_are_refused(tmp_path):
    with pytest.raises(CacheError, match="The batch has no 'sample_id'"):
        build(bert(), [words()], tmp_path / "c", ["logits"])
    with pytest.raises(CacheError, match="The loader gives no rows"):
        build(bert(), DataLoader([]), tmp_path / "d", ["logits"])


@pytest.mark.parametrize("at_once", [True, False])
def test_two_rows_of_one_sample_id_are_refused(tmp_path, at_once):
    batches = [
        batch | {"sample_id": torch.zeros(4).long() + (0 if at_once else torch.arange(4))}
        for batch in in_batches(token_rows(8), 4)
    ]
    with pytest.raises(CacheError, match=r"Row 0 \(its sample_id\) came twice and looked different"):
        build(bert(), batches, tmp_path / "c", ["logits"])


def test_another_split_with_the_same_numbers_is_refused_and_not_taken_for_known(tmp_path):
    build(bert(), in_batches(token_rows(), 4), tmp_path / "c", ["logits"])
    with pytest.raises(CacheError, match=r"came twice and looked different.*a cache of its own"):
        build(bert(), in_batches(token_rows(seed=1), 4), tmp_path / "c", ["logits"])
    assert len(kd.TeacherCache(tmp_path / "c")) == 12


def test_the_same_row_twice_is_kept_once(tmp_path):
    batches = in_batches(token_rows(), 4)
    assert len(build(bert(), [*batches, *reversed(batches)], tmp_path / "c", ["logits"])) == 12


@pytest.mark.parametrize("form", ["list", "loader", "stream"])
def test_batches_may_come_from_anywhere(tmp_path, form):
    batches = in_batches(token_rows(), 4)
    given: Any = {"list": batches, "loader": shuffled(token_rows(), 2), "stream": iter(batches)}[form]
    assert build(bert(), given, tmp_path / "c", ["logits"]).sample_ids.tolist() == list(range(12))


class Stop(nn.Module):
    """Ends in the third batch: one more call is made to tell how long it takes."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.bert = bert()
        self.config = self.bert.config
        self.error, self.calls, self.armed = error, 0, True

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.calls += 1
        if self.armed and self.calls == 4:
            raise self.error
        return self.bert(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_end_in_the_middle_leaves_shards_and_the_teacher(tmp_path, monkeypatch, error):
    monkeypatch.setattr("kd_lightning.teachers.cache.shard.SHARD_BYTES", 1)
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)  # taps stand on a compiled model
    before, model = signal.getsignal(signal.SIGINT), Stop(error)
    state = weights(model)
    with pytest.raises((RuntimeError, SystemExit)):
        build(kd.LiveTeacher(model, compile=True), in_batches(token_rows(), 4), tmp_path / "c", ["hidden.1"])
    signal.signal(signal.SIGINT, before)  # Lightning ignores further ones for good
    assert same(weights(model), state)
    assert hooks_on(model) == 0
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.safetensors")}
    assert len(kept) == 2
    with pytest.raises(CacheError, match="is not finished"):
        kd.TeacherCache(tmp_path / "c")
    model.armed, model.calls = False, 0
    build(model, in_batches(token_rows(), 4), tmp_path / "c", ["hidden.1"])
    assert model.calls == 1 + 1  # one to tell how long it takes
    assert {name: (tmp_path / "c" / name).stat().st_mtime_ns for name in kept} == kept


def test_a_shard_that_was_damaged_is_made_again_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lightning.teachers.cache.shard.SHARD_BYTES", 1)
    batches, model = in_batches(token_rows(), 4), Counting(bert())
    expected = torch.cat([live(bert(), ["logits"])(batch)["logits"] for batch in batches])
    build(model, batches, tmp_path / "c", ["logits"])
    path = tmp_path / "c" / "000-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    again = "delete the file and build the cache again, which makes these rows only"
    with pytest.raises(CacheError, match=again):
        kd.CachedTeacher(tmp_path / "c")
    with pytest.raises(CacheError, match=again):
        build(model, batches, tmp_path / "c", ["logits"])
    path.unlink()
    model.rows.clear()
    build(model, batches, tmp_path / "c", ["logits"])
    assert model.rows == [4] * 2  # one of them to tell how long it takes
    teacher = cached(tmp_path / "c", ["logits"])
    assert torch.equal(torch.cat([teacher(batch)["logits"] for batch in batches]), expected)


def test_a_finished_cache_grows_while_someone_reads_it(tmp_path):
    rows = token_rows(20)
    first, rest = in_batches(rows, 4, range(8)), in_batches(rows, 4, range(8, 20))
    build(bert(), first, tmp_path / "c", ["hidden.1"])
    reader = cached(tmp_path / "c", ["hidden.1"])
    before = [reader(batch)["hidden.1"] for batch in first]
    assert len(build(bert(), rest, tmp_path / "c", ["hidden.1"])) == 20
    assert all(torch.equal(reader(batch)["hidden.1"], x) for batch, x in zip(first, before, strict=True))
    with pytest.raises(CacheError, match="Row 8 "):
        reader(rest[0])
    grown = cached(tmp_path / "c", ["hidden.1"])
    assert all(torch.equal(grown(batch)["hidden.1"], x) for batch, x in zip(first, before, strict=True))
    assert grown(rest[-1])["hidden.1"].shape[0] == 4


def test_the_teacher_does_not_run_if_no_row_is_missing(tmp_path):
    model = Counting(bert())
    build(model, in_batches(token_rows(), 4), tmp_path / "c", ["logits"])
    model.rows.clear()
    build(model, in_batches(token_rows(), 5), tmp_path / "c", ["logits"])
    assert model.rows == []


# -- other processes -----------------------------------------------------------------------------------------------


def launch(folder: Path, *runs: tuple[str, str, str, int, int]) -> list[int | None]:
    """Start processes at the same time, as (cache, log, kind, rank, world); return their exit codes."""
    started = [
        (
            [str(SCRIPT), str(folder / cache), str(folder / f"{log}.json"), kind, str(rank), str(world)],
            folder / f"{log}.txt",
        )
        for cache, log, kind, rank, world in runs
    ]
    return processes.together(*started, timeout=200)


def check(codes: list[int | None], wanted: list[int], folder: Path) -> None:
    assert codes == wanted, "\n".join(f"{file}: {file.read_text()[-3000:]}" for file in folder.glob("*.txt"))


def content(cache: Path) -> dict[int, dict[str, Any]]:
    """Return every row of a cache by its number, as it is on disk."""
    opened = kd.TeacherCache(cache)
    found: dict[int, dict[str, Any]] = {}
    for shard in opened._shards:
        for row, number in enumerate(shard.ids.tolist()):
            found[number] = {address: shard.block(address, row) for address in opened.addresses}
    return found


def check_whole(cache: Path, near: float) -> None:
    """Compare with one that was built here, in one go."""
    whole = cache.with_name("whole")
    build(bert(2, 24, seed=1), shuffled(token_rows(39)), whole, ["hidden.1", "hidden.2", "logits"])
    mine, theirs = content(cache), content(whole)
    assert mine.keys() == theirs.keys() == set(range(39))
    for number, features in theirs.items():
        for address, block in features.items():
            np.testing.assert_allclose(mine[number][address], block, atol=near, rtol=near)


@pytest.mark.timeout(300)
def test_killed_and_built_again_by_two_at_once(tmp_path):
    """Finished shards stay, none of their rows is computed again, and the end is that of one never killed."""
    check(launch(tmp_path, ("cut", "killed", "killed", 0, 1)), [-signal.SIGKILL], tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.safetensors")}
    assert len(kept) == 5
    torn = tmp_path / "cut" / f".000-000005.safetensors.{2**30}.tmp"  # no process has such a number
    torn.write_bytes(b"half of it")
    with pytest.raises(CacheError, match="is not finished"):
        kd.TeacherCache(tmp_path / "cut")
    again = [("cut", "first", "slow", 0, 1), ("cut", "second", "slow", 0, 1)]
    check(launch(tmp_path, *again), [0, 0], tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    logs = [tmp_path / f"{name}.json" for name in ("first", "second")]
    calls = sorted(json.loads(log.read_text()) if log.exists() else [] for log in logs)
    assert calls[0] == []
    assert len(calls[1]) == 1 + 5
    check_whole(tmp_path / "cut", near=0.0)
    assert not torn.exists()


@pytest.mark.ddp
@pytest.mark.timeout(300)
def test_two_ranks_build_one_cache_and_train_from_it(tmp_path):
    check(launch(tmp_path, *(("pair", f"rank{rank}", "train", rank, 2) for rank in (0, 1))), [0, 0], tmp_path)
    for rank in (0, 1):
        assert list((tmp_path / "pair").glob(f"00{rank}-*.safetensors"))
    calls = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [sum(own) for own in calls] == [4 + 20, 20]  # of 39 rows one is dealt out twice
    check_whole(tmp_path / "pair", near=1e-5)
    states = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in states[0]["live"].items():
        torch.testing.assert_close(states[0]["cached"][name], value, atol=1e-6, rtol=1e-5, msg=name)
        assert torch.equal(states[0]["cached"][name], states[1]["cached"][name])
