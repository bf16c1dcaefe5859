"""A cached teacher returns what the live one returns, whatever the batches, and trains a student as it does."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, CacheError, ConfigError
from kd_lightning.core.types import FeatureInfo, ModelInfo
from kd_lightning.teachers.batch_teacher import FIELD, BatchTeacher

from ..toys import bert, mlp, pairs, ready, same, trainer, weights, words
from .cache.making import Counting, build, cached, compare, in_batches, live, shuffled, token_rows

AXES: dict[str, tuple[int, ...]] = {
    "hidden.0": (0,),
    "hidden.2": (0,),
    "attention.1": (1, 2),
    "scores.2": (1, 2),
    "query.1": (1,),
    "key.2": (1,),
    "value.1": (1,),
    "logits": (),
    "bert.pooler": (),
    "bert.encoder.layer.0.output": (0,),
    "bert.encoder.layer.1.attention.self.query:in": (0,),
}
NEAR = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}
SGD = partial(torch.optim.SGD, lr=0.1)


def numbered(batch: dict[str, Any], first: int = 0) -> dict[str, Any]:
    return {**batch, "sample_id": torch.arange(first, first + len(batch["labels"]))}


@pytest.fixture(scope="module")
def caches(tmp_path_factory: Any) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("caches")

    def made(dtype: str) -> Path:
        if not (folder / dtype).exists():
            build(bert(), in_batches(token_rows(), 5), folder / dtype, list(AXES), dtype)
        return folder / dtype

    return made


@pytest.mark.parametrize("dtype", list(NEAR))
@pytest.mark.parametrize("how", [{"size": 5}, {"size": 12, "multiple_of": 8}, {"size": 1}, {"size": 3, "order": True}])
def test_a_cache_returns_what_the_model_returns_however_rows_are_batched(caches, dtype, how):
    order = list(torch.randperm(12, generator=torch.Generator().manual_seed(0))) if how.get("order") else None
    teacher, model = cached(caches(dtype), list(AXES)), live(bert(), list(AXES))
    for batch in in_batches(token_rows(), **(how | {"order": order})):
        found, expected = teacher(batch), model(batch)
        assert found.keys() == expected.keys()
        for address, axes in AXES.items():
            assert found[address].shape == expected[address].shape
            exact = dtype == "fp32" and how == {"size": 5}  # the very batches that were written
            near = 0.0 if exact else NEAR[dtype]
            compare(found[address], expected[address], batch["attention_mask"], axes, atol=near, rtol=near)


def test_padding_has_no_value(caches):
    batch = in_batches(token_rows(), 12, multiple_of=16)[0]
    found = cached(caches("fp32"), list(AXES))(batch)
    padding = batch["attention_mask"] == 0
    assert found["hidden.2"][padding].abs().sum() == 0
    assert found["attention.1"].transpose(1, 3)[padding].abs().sum() == 0
    assert found["query.1"].transpose(1, 2)[padding].abs().sum() == 0


def test_a_half_precision_teacher_is_kept_bit_by_bit(tmp_path):
    batches = in_batches(token_rows(), 4)
    model = live(bert(), list(AXES), precision="bfloat16")
    build(kd.LiveTeacher(bert(), precision="bfloat16"), batches, tmp_path / "c", list(AXES), "bf16")
    for batch in batches:
        found, expected = cached(tmp_path / "c", list(AXES))(batch), model(batch)
        for address, axes in AXES.items():
            assert found[address].dtype == torch.bfloat16
            compare(found[address], expected[address], batch["attention_mask"], axes, atol=0, rtol=0)


@pytest.mark.parametrize("length", [2, 3, 8, 16], ids=["heads", "classes", "head width", "width"])
@pytest.mark.parametrize("other", [None, 5])
def test_a_batch_as_long_as_something_is_wide_confuses_nothing(tmp_path, length, other):
    """Written in batches of that length, of which rows fill less, and read so, or padded to another one."""
    rows = token_rows(8, longest=length, shortest=1)
    addresses = [*AXES, "bert.embeddings"]
    build(bert(), in_batches(rows, 4, multiple_of=length), tmp_path / "c", addresses)
    teacher, model = cached(tmp_path / "c", addresses), live(bert(), addresses)
    for batch in in_batches(rows, 2, multiple_of=other or length):
        found, expected = teacher(batch), model(batch)
        for address, axes in (AXES | {"bert.embeddings": (0,)}).items():
            assert found[address].shape == expected[address].shape, address
            compare(found[address], expected[address], batch["attention_mask"], axes, atol=1e-5, rtol=1e-5)


class Heads(nn.Module):
    """Gives (B, 2, L, 4) by a module path, as attention does inside."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.split = nn.Unflatten(-1, (2, 4))
        self.turned = Turned()
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.words(input_ids)
        self.turned(self.split(x))
        return {"logits": self.head((x * attention_mask.unsqueeze(-1)).mean(1))}


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_a_module_as_wide_as_all_batches_are_long_is_no_map(tmp_path):
    batches = in_batches(token_rows(8, shortest=1, longest=3), 4, multiple_of=4)
    assert {batch["input_ids"].shape[1] for batch in batches} == {4}
    model = Heads()
    build(model, batches, tmp_path / "c", ["turned"])
    for batch in batches:
        found = cached(tmp_path / "c", ["turned"])(batch)["turned"]
        compare(found, live(model, ["turned"])(batch)["turned"], batch["attention_mask"], (1,), atol=0, rtol=0)


def small(kind: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    fields: dict[str, Any] = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields |= {"intermediate_size": 32, "max_position_embeddings": 16, "pad_token_id": 0}
    fields["num_labels"] = 2 if "Question" in kind else 3
    if kind.startswith("Albert"):
        fields["embedding_size"] = 8
    config = getattr(transformers, f"{kind.partition('For')[0].removesuffix('Model')}Config")(**fields | more)
    return getattr(transformers, kind)(config)


OTHERS: list[tuple[str, dict[str, tuple[int, ...]]]] = [
    ("BertForTokenClassification", {"logits": (0,), "hidden.1": (0,)}),
    ("BertForQuestionAnswering", {"start_logits": (0,), "end_logits": (0,)}),
    ("AlbertForSequenceClassification", {"hidden.1": (0,), "hidden.2": (0,), "attention.2": (1, 2), "logits": ()}),
    ("LlamaModel", {"hidden.2": (0,), "key.1": (1,), "attention.1": (1, 2)}),
]


@pytest.mark.parametrize(("kind", "axes"), OTHERS, ids=[kind for kind, _ in OTHERS])
@pytest.mark.parametrize("length", [3, 8])
def test_other_models(tmp_path, kind, axes, length):
    options = {"num_key_value_heads": 1} if kind == "LlamaModel" else {}
    rows = token_rows(longest=length)
    build(small(kind, **options), in_batches(rows, 4, multiple_of=length), tmp_path / "c", list(axes))
    for batch in in_batches(rows, 3):
        found, expected = cached(tmp_path / "c", list(axes))(batch), live(small(kind, **options), list(axes))(batch)
        for address, own in axes.items():
            assert found[address].shape == expected[address].shape
            compare(found[address], expected[address], batch["attention_mask"], own, atol=1e-5, rtol=1e-5)


def test_padding_may_be_on_the_other_side(tmp_path):
    """Of a model with relative positions: the outputs of others change with the side of padding."""
    rows, axes = token_rows(), {"hidden.2": (0,), "attention.1": (1, 2)}
    build(small("LlamaModel"), in_batches(rows, 4), tmp_path / "c", list(axes))
    for batch in in_batches(rows, 3, side="left", multiple_of=8):
        found, expected = cached(tmp_path / "c", list(axes))(batch), live(small("LlamaModel"), list(axes))(batch)
        for address, own in axes.items():
            compare(found[address], expected[address], batch["attention_mask"], own, atol=1e-5, rtol=1e-5)


def test_rows_with_holes_and_rows_of_nothing(tmp_path):
    batch = numbered(words(4))
    batch["attention_mask"] = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [1] * 6])
    build(bert(), [batch], tmp_path / "c", ["hidden.1", "attention.2", "logits"])
    found = cached(tmp_path / "c", ["hidden.1", "attention.2", "logits"])(batch)
    expected = live(bert(), ["hidden.1", "attention.2", "logits"])(batch)
    compare(found["hidden.1"], expected["hidden.1"], batch["attention_mask"], (0,), atol=0, rtol=0)
    compare(found["attention.2"], expected["attention.2"], batch["attention_mask"], (1, 2), atol=0, rtol=0)
    torch.testing.assert_close(found["logits"], expected["logits"], atol=0, rtol=0)
    assert found["hidden.1"][1].abs().sum() == 0


def test_a_hole_that_moved_is_another_row(tmp_path):
    batch = numbered(words(4))
    batch["input_ids"][3, 2] = 0  # a hash of tokens alone would not see it
    build(bert(), [batch], tmp_path / "c", ["logits"])
    other = batch | {"attention_mask": batch["attention_mask"].clone()}
    other["attention_mask"][3, 2] = 0
    with pytest.raises(CacheError, match="Row 3 does not look as it did"):
        cached(tmp_path / "c", ["logits"])(other)


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.stem(pixel_values).relu().mean((2, 3)))}


def pictures(rows: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.rand(rows, 3, 9, 9, generator=generator), "labels": torch.zeros(rows).long()}


def test_images_have_no_mask(tmp_path):
    batch = numbered(pictures())
    build(Picture(), [batch], tmp_path / "c", ["stem", "logits"])
    turned = {name: value.flip(0) for name, value in batch.items()}
    found, expected = cached(tmp_path / "c", ["stem", "logits"])(turned), live(Picture(), ["stem", "logits"])(turned)
    assert torch.equal(found["stem"], expected["stem"])
    torch.testing.assert_close(found["logits"], expected["logits"])


def test_its_repr_names_path_rows_addresses_and_fingerprint(caches):
    path = caches("fp32")
    cache = kd.TeacherCache(path)
    what = f"'{path}', 12 rows, {sorted(AXES)}, fingerprint='{cache.fingerprint}'"
    assert repr(kd.CachedTeacher(path)) == f"CachedTeacher({what})"
    assert repr(cache) == f"TeacherCache({what})"
    assert repr(cache.fingerprint) == f"Fingerprint('{cache.fingerprint}' of addresses, data, dtype, teacher, top_k)"


def test_what_the_structure_told_of_features_is_kept(tmp_path, caches):
    batch = numbered(pictures())
    build(Picture(), [batch], tmp_path / "c", ["stem", "logits"])
    info = kd.CachedTeacher(tmp_path / "c").info
    assert isinstance(info, ModelInfo)
    assert (info.feature("stem"), info.feature("logits")) == (FeatureInfo("map", 8), FeatureInfo("classes", 3))
    model, cache = kd.LiveTeacher(bert()).info, kd.CachedTeacher(caches("fp32")).info
    for address in AXES:
        own, kept = model.feature(address), cache.feature(address)
        assert (own.kind, own.stack) == (kept.kind, kept.stack)
        assert own.width in (kept.width, None)


def test_an_ensembles_features_are_those_of_its_teachers(tmp_path):
    ensemble = kd.EnsembleTeacher({"a": bert(), "b": bert()})
    addresses = ["logits", "a/hidden.1", "b/query.2"]
    build(ensemble, in_batches(token_rows(), 4), tmp_path / "c", addresses)
    for info in (ensemble.info, kd.CachedTeacher(tmp_path / "c").info):
        found = [info.feature(address) for address in addresses]
        assert found == [FeatureInfo("classes", 3), FeatureInfo("tokens", 16), FeatureInfo("heads", 8)]


def test_pairs_of_a_mapping_and_labels(tmp_path):
    x, y = pairs(6)
    batch = ({"input": x, "sample_id": torch.arange(6)}, y)
    build(mlp(5), [batch], tmp_path / "c", ["1", "logits"])
    found, expected = cached(tmp_path / "c", ["1", "logits"])(batch), live(mlp(5), ["1", "logits"])(batch)
    assert all(torch.equal(found[address], expected[address]) for address in expected)


def test_with_two_tokenizers_the_teachers_rows_count(tmp_path):
    batch = {"student": words(4, 5), "teacher": words(4, 7, seed=1), "sample_id": torch.arange(4)}
    build(bert(), [batch], tmp_path / "c", ["hidden.1", "logits"])
    teacher = cached(tmp_path / "c", ["hidden.1", "logits"])
    other_student = {**batch, "student": words(4, 3, seed=5)}
    found, expected = teacher(other_student), live(bert(), ["hidden.1"])(batch)
    compare(found["hidden.1"], expected["hidden.1"], batch["teacher"]["attention_mask"], (0,), atol=0, rtol=0)
    with pytest.raises(CacheError, match="does not look as it did"):
        teacher({**batch, "teacher": words(4, 7, seed=2)})


# -- training ------------------------------------------------------------------------------------------------------


def objective() -> kd.Objective:
    return kd.Objective(
        {
            "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
            "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)),
            "hidden": kd.MatchScheme("hidden", kd.losses.HiddenMSE(), embeddings=True, projection="linear"),
            "attention": kd.Term(kd.Match("attention.1", "attention.2"), kd.losses.AttentionMSE(), weight=5.0),
        }
    )


NEEDED = ["logits", "hidden.0", "hidden.2", "hidden.4", "attention.2"]


def teacher_model() -> Any:
    return bert(4, 24, seed=1)


def fitted(teacher: Any, folder: Path, workers: int = 0, **options: Any) -> kd.DistillationModule:
    torch.manual_seed(0)
    module = kd.DistillationModule(bert(), teacher, objective(), SGD)
    trainer(folder, max_epochs=2, **options).fit(module, shuffled(token_rows(), workers))
    return module


@pytest.mark.parametrize("workers", [0, 2])
def test_a_student_of_a_cache_is_a_student_of_the_model(tmp_path, workers):
    build(teacher_model(), in_batches(token_rows(), 5), tmp_path / "c", NEEDED)
    one, other = fitted(kd.CachedTeacher(tmp_path / "c"), tmp_path, workers), fitted(teacher_model(), tmp_path)
    assert any("projection" in name for name in one.state_dict())
    assert one.objective.named_terms().keys() == other.objective.named_terms().keys()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert one.__dict__.keys() == other.__dict__.keys()  # the hook on the host is off again


def test_in_the_batches_it_was_written_in_it_trains_bit_by_bit_alike(tmp_path):
    batches = in_batches(token_rows(), 4)
    build(teacher_model(), batches, tmp_path / "c", NEEDED)

    def end(teacher: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = kd.DistillationModule(bert(), teacher, objective(), SGD)
        trainer(tmp_path, max_epochs=3).fit(module, ready(batches))
        return weights(module)

    assert same(end(kd.CachedTeacher(tmp_path / "c")), end(teacher_model()))


def test_half_precision_on_disk_trains_nearly_alike(tmp_path):
    build(teacher_model(), in_batches(token_rows(), 5), tmp_path / "c", NEEDED, "bf16")
    one, other = fitted(kd.CachedTeacher(tmp_path / "c"), tmp_path), fitted(teacher_model(), tmp_path)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, atol=5e-3, rtol=1e-2, msg=name)


class Where(pl.Callback):
    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.dtypes |= {feature.dtype for feature in batch[FIELD].values()}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_features_are_read_on_the_host_and_no_precision_converts_them(tmp_path, precision):
    build(teacher_model(), in_batches(token_rows(), 5), tmp_path / "c", NEEDED)
    seen = Where()
    fitted(kd.CachedTeacher(tmp_path / "c"), tmp_path, precision=precision, callbacks=[seen])
    assert seen.dtypes == {torch.float32}


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_pictures_in_another_precision_are_still_the_same(tmp_path, precision):
    batch = numbered(pictures())
    build(Picture(), [batch], tmp_path / "c", ["logits"])
    soft = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    module = kd.DistillationModule(Picture(), kd.CachedTeacher(tmp_path / "c"), soft, SGD)
    runner = trainer(tmp_path, max_steps=2, precision=precision)
    runner.fit(module, ready([batch]))
    assert runner.global_step == 2


class Host(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = bert()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        named = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        return self.model(**named).loss

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters())


def test_the_callback_trains_from_a_cache(tmp_path):
    build(teacher_model(), in_batches(token_rows(), 5), tmp_path / "c", NEEDED)

    def end(teacher: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        host = Host()
        callback = kd.DistillationCallback(teacher, objective())
        trainer(tmp_path, max_epochs=2, callbacks=[callback]).fit(host, shuffled(token_rows()))
        return weights(host)

    one, other = end(kd.CachedTeacher(tmp_path / "c")), end(teacher_model())
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_each_of_several_tasks_has_its_own_cache(tmp_path):
    def batches(task: str) -> list[dict[str, Any]]:
        return [{**batch, "task": task} for batch in in_batches(token_rows(seed=len(task)), 4)]

    order = [batch for pair in zip(batches("a"), batches("bb"), strict=True) for batch in pair]
    for task in ("a", "bb"):
        build(teacher_model(), batches(task), tmp_path / task, NEEDED)

    def end(teachers: dict[str, Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        body = bert()
        students = {"a": body, "bb": kd.students.share_body(body, bert(seed=3))}
        tasks = {name: kd.DistillationModule(students[name], teachers[name], objective()) for name in students}
        module = kd.MultiTaskModule(tasks, SGD)
        seen = Where()
        options = {"callbacks": [seen]} if isinstance(teachers["a"], kd.CachedTeacher) else {}
        trainer(tmp_path, max_epochs=2, **options).fit(module, ready(order))
        return weights(module)

    one = end({task: kd.CachedTeacher(tmp_path / task) for task in ("a", "bb")})
    assert same(one, end({"a": teacher_model(), "bb": teacher_model()}))


def test_an_ensemble_may_be_cached_and_a_cache_be_in_an_ensemble(tmp_path):
    batches, addresses = in_batches(token_rows(), 4), ["logits", "a/hidden.1", "b/logits"]
    ensemble = kd.EnsembleTeacher({"a": bert(), "b": bert(seed=1)}, weights="confidence")
    build(ensemble, batches, tmp_path / "all", addresses)
    build(bert(), batches, tmp_path / "a", ["logits", "hidden.1"])
    mixed = kd.EnsembleTeacher({"a": kd.CachedTeacher(tmp_path / "a"), "b": bert(seed=1)}, weights="confidence")
    for source in (ensemble, mixed):
        source.ask(addresses)
    teacher = cached(tmp_path / "all", addresses)
    assert teacher.info.layers("a/") == mixed.info.layers("a/") == 2
    assert teacher.info.width("a/hidden.1") == mixed.info.width("a/hidden.1") == 16
    for batch in batches:
        expected = ensemble(batch)
        for found in (teacher(batch), mixed(batch)):
            compare(found["a/hidden.1"], expected["a/hidden.1"], batch["attention_mask"], (0,), atol=0, rtol=0)
            assert torch.equal(found["logits"], expected["logits"])
            assert torch.equal(found["b/logits"], expected["b/logits"])


def test_validation_on_other_rows_raises_an_error_and_on_the_same_gives_a_loss(tmp_path):
    build(teacher_model(), in_batches(token_rows(), 5), tmp_path / "c", NEEDED)
    module = fitted(kd.CachedTeacher(tmp_path / "c"), tmp_path)
    found = trainer(tmp_path).validate(module, ready(in_batches(token_rows(), 3)), verbose=False)
    assert found[0]["val/loss"] > 0
    with pytest.raises(CacheError, match=r"Row 0 does not look as it did .* another split"):
        trainer(tmp_path).validate(module, ready(in_batches(token_rows(seed=9), 3)), verbose=False)
    with pytest.raises(CacheError, match=r"Row 12 \(its sample_id\) is not in the teacher cache .* 12 rows, 0 to 11"):
        trainer(tmp_path).validate(module, ready(in_batches(token_rows(16), 16)), verbose=False)


# -- what it holds, and itself -------------------------------------------------------------------------------------


def test_its_anatomy_is_what_the_cache_holds(caches):
    info = cached(caches("fp32"), []).info
    assert info.layers() == 2
    assert (info.width("hidden.2"), info.width("logits"), info.width("attention.1")) == (16, 3, None)
    with pytest.raises(AddressError, match=r"does not hold 'hidden\.1'\. Closest: hidden\.[02]"):
        info.check(["logits", "hidden.1"])
    with pytest.raises(AddressError, match=r"holds no layers of 'encoder', only .*hidden\.0, hidden\.2"):
        info.layers("encoder")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_a_copy_maps_the_same_files(caches, copied):
    teacher = cached(caches("fp32"), ["hidden.2"])
    batch = in_batches(token_rows(), 12)[0]
    assert torch.equal(copied(teacher)(batch)["hidden.2"], teacher(batch)["hidden.2"])
    buffer = io.BytesIO()
    pickle.dump(teacher, buffer)
    assert buffer.tell() < 2000


def test_batches_with_features_need_not_be_read(caches):
    teacher = cached(caches("fp32"), ["logits"])
    batch = in_batches(token_rows(), 12)[0]
    prepared = teacher.prepare(batch)
    assert FIELD not in batch
    assert prepared[FIELD].keys() == {"logits"}
    assert teacher.prepare(prepared) is prepared
    assert torch.equal(teacher({**prepared, "sample_id": None})["logits"], teacher(batch)["logits"])


def test_a_batch_teacher_around_it_is_known_by_it(caches, tmp_path):
    build(bert(seed=7), in_batches(token_rows(), 5), tmp_path / "c", ["logits"])
    one, other = BatchTeacher(kd.CachedTeacher(caches("fp32"))), BatchTeacher(kd.CachedTeacher(tmp_path / "c"))
    assert one.identity() != other.identity()


def test_a_batch_without_sample_ids_raises_an_error(caches):
    teacher = cached(caches("fp32"), ["logits"])
    for batch in (words(), pairs(), words() | {"sample_id": torch.rand(4)}):
        with pytest.raises(CacheError, match="The batch has no 'sample_id'"):
            teacher(batch)
    with pytest.raises(CacheError, match="3 sample ids and 4 rows"):
        teacher(words() | {"sample_id": torch.arange(3)})


def test_a_cache_of_another_teacher_is_refused_by_what_differs(caches):
    changed = bert()
    with torch.no_grad():
        changed.bert.encoder.layer[1].output.dense.weight[3, 4] += 1e-6
    addresses = list(AXES)
    right = kd.TeacherCache.fingerprint_of(bert(), addresses, dtype="fp32")
    kd.CachedTeacher(caches("fp32"), expect=right)
    kd.CachedTeacher(caches("fp32"), expect=str(right))
    kd.CachedTeacher(caches("fp32"), expect=right.parts)
    kd.CachedTeacher(caches("fp32"), expect=kd.TeacherCache.fingerprint_of(bert(), addresses[:1], dtype="fp32"))
    with pytest.raises(ConfigError, match=r"Expected argument `expect` to be a fingerprint.*but got 7"):
        kd.CachedTeacher(caches("fp32"), expect=7)
    wrong: dict[str, Any] = {
        "teacher": kd.TeacherCache.fingerprint_of(changed, addresses, dtype="fp32"),
        "dtype": kd.TeacherCache.fingerprint_of(bert(), addresses, dtype="bf16"),
        "top_k": kd.TeacherCache.fingerprint_of(bert(), addresses, 2, dtype="fp32"),
        "addresses": kd.TeacherCache.fingerprint_of(bert(), [*addresses, "bert.embeddings"], dtype="fp32"),
        "data": kd.TeacherCache.fingerprint_of(bert(), addresses, dtype="fp32", data="other"),
    }
    for part, fingerprint in wrong.items():
        with pytest.raises(CacheError, match=rf"was made from something else: {part} \("):
            kd.CachedTeacher(caches("fp32"), expect=fingerprint)
    with pytest.raises(CacheError, match=r"fingerprint \w+ there, 123 expected"):
        kd.CachedTeacher(caches("fp32"), expect="123")


def test_no_model_runs(tmp_path):
    model = Counting(bert())
    build(model, in_batches(token_rows(), 4), tmp_path / "c", ["logits"])
    calls = len(model.rows)
    soft = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    module = kd.DistillationModule(bert(), kd.CachedTeacher(tmp_path / "c"), soft, SGD)
    trainer(tmp_path, max_epochs=1).fit(module, shuffled(token_rows()))
    assert len(model.rows) == calls == 3 + 1  # one to tell how long it takes


def test_a_batch_without_rows_is_passed_over_when_a_cache_is_built_and_refused_when_it_is_read(tmp_path):
    batches = in_batches(token_rows(), 4)
    empty = {name: value[:0] for name, value in batches[0].items()}
    assert len(build(bert(), [empty, *batches], tmp_path / "c", ["logits"])) == 12
    with pytest.raises(CacheError, match="The batch has no rows"):
        cached(tmp_path / "c", ["logits"])(empty)
    with pytest.raises(CacheError, match="nothing to build a teacher cache from"):
        build(bert(), [empty], tmp_path / "none", ["logits"])
    assert not (tmp_path / "none" / "manifest.json").exists()
