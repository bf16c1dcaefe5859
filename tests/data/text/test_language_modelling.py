from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from kd_lightning.core.errors import DataError
from kd_lightning.data import Delete, LanguageModelling, MultiTask, build_tokenizer
from kd_lightning.data.text.masking import MaskedRows
from kd_lightning.losses import HardLabel, SoftTarget
from kd_lightning.objective import Objective, Term
from kd_lightning.objective.match import Match

WORDS = [
    "the",
    "a",
    "film",
    "plot",
    "actor",
    "scene",
    "was",
    "is",
    "very",
    "not",
    "slow",
    "bright",
    "dull",
    "of",
    "good",
    "bad",
]


def sentences(number: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(number)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 300 documents of two lines."""
    lines = sentences(600)
    text = "\n\n".join("\n".join(lines[i : i + 2]) for i in range(0, 600, 2))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "all.txt").write_text(text)
    return tmp_path / "text"


@pytest.fixture(scope="module")
def pieces() -> Any:
    return build_tokenizer(sentences(50), vocab_size=80)


def of(folder: Path, tokenizer: Any, **settings: Any) -> LanguageModelling:
    settings = {"max_length": 32, "batch_size": 4, "cache_dir": folder.parent / "cache", "holdout": 0.2} | settings
    data = LanguageModelling(folder, tokenizer=tokenizer, **settings)
    data.setup("fit")
    return data


def uncovered(batch: dict[str, Any]) -> torch.Tensor:
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])


def test_batches_hold_all_the_text_with_some_of_it_hidden(folder, pieces):
    data = of(folder, pieces)
    shown: list[list[int]] = []
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "logits_mask", "attention_mask", "sample_id"}
        assert (batch["logits_mask"].bool() == (batch["labels"] != -100)).all()
        hidden = batch["logits_mask"].sum() / batch["attention_mask"].sum()
        assert 0.1 < hidden < 0.2
        shown += [
            row[mask.bool()].tolist() for row, mask in zip(uncovered(batch), batch["attention_mask"], strict=True)
        ]
    rows = [data.rows("train").tokens(row)["input_ids"].tolist() for row in range(data.sizes["train"])]
    assert sorted(shown) == sorted(rows)
    words = sum(len(line.split()) for line in data.texts("train"))
    assert words <= sum(map(len, rows))


def test_the_objective_is_the_models_own_loss_at_the_hidden_places(folder, pieces):
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(pieces), intermediate_size=16, **sizes)).eval()
    objective = Objective({"hard": Term(Match("logits", "labels"), HardLabel())})
    for batch in of(folder, pieces).val_dataloader():
        own = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")})
        torch.testing.assert_close(objective({"logits": own.logits}, {}, batch).total, own.loss)


def test_soft_targets_count_at_the_hidden_places_only(folder, pieces):
    batch = next(iter(of(folder, pieces).val_dataloader()))
    objective = Objective({"logits": Term(Match("logits", "logits"), SoftTarget(temperature=2.0))})
    logits = torch.randn(*batch["labels"].shape, len(pieces), requires_grad=True)
    objective({"logits": logits}, {"logits": torch.randn_like(logits)}, batch).total.backward()
    assert ((logits.grad.abs().sum(-1) > 0) == (batch["labels"] != -100)).all()


def test_each_epoch_hides_others_and_validation_always_the_same(folder, pieces):
    def labels(seed: int, epoch: int, split: str) -> list[Any]:
        data = of(folder, pieces, seed=seed)
        loader: Any = data.train_dataloader() if split == "train" else data.val_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        return sorted(
            (row.item(), tuple(y.tolist())) for b in loader for row, y in zip(b["sample_id"], b["labels"], strict=True)
        )

    assert labels(0, 1, "train") == labels(0, 1, "train")
    assert labels(0, 0, "train") != labels(0, 1, "train")
    assert labels(0, 0, "train") != labels(1, 0, "train")
    assert labels(0, 0, "validation") == labels(1, 3, "validation")


def test_workers_hide_what_one_process_hides(folder, pieces):
    def batches(workers: int) -> list[Any]:
        loader = of(folder, pieces, num_workers=workers).train_dataloader()
        made = []
        for epoch in (0, 1):
            loader.batch_sampler.set_epoch(epoch)
            made += [batch["input_ids"].tolist() for batch in loader]
        return made

    assert batches(0) == batches(1)


def test_documents_are_held_back_whole_and_whatever_the_seed(folder, pieces):
    data = of(folder, pieces)
    train, validation = (set(data.texts(split)) for split in ("train", "validation"))
    assert train | validation == set(sentences(600))
    assert not train & validation
    assert 0.1 * 600 < len(validation) < 0.3 * 600
    assert set(of(folder, pieces, seed=5).texts("validation")) == validation


def test_a_document_that_comes_twice_is_on_one_side(tmp_path, pieces):
    (tmp_path / "a.txt").write_text("\n\n".join(sentences(50) * 2))
    data = of(tmp_path / "a.txt", pieces, cache_dir=tmp_path)
    assert not set(data.texts("train")) & set(data.texts("validation"))


def test_validation_text_that_is_there_is_used(folder, tmp_path, pieces):
    (tmp_path / "other.txt").write_text("the film was good")
    given = of(folder, pieces, validation=tmp_path / "other.txt", holdout=None)
    assert given.texts("validation") == ["the film was good"]
    assert given.texts("train") == sentences(600)
    (tmp_path / "set").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "set" / f"{split}.txt").write_text(f"the {split}")
    data = of(Path("set"), pieces, root=tmp_path, cache_dir=tmp_path, holdout=None)
    assert (data.texts("train"), data.texts("validation")) == (["the train"], ["the validation"])


def test_packed_rows_are_found_again_and_changes_make_new_ones(folder, pieces):
    first = of(folder, pieces)
    fingerprint = first.fingerprint
    kept = folder.parent / "cache" / "data"
    before = {path.name for path in kept.iterdir() if path.is_dir()}
    assert of(folder, pieces, seed=3, share=0.3).rows("train").lengths.sum() == first.rows("train").lengths.sum()
    assert {path.name for path in kept.iterdir() if path.is_dir()} == before
    for change in ({"max_length": 16}, {"holdout": 0.3}, {"limit": 3}):
        assert of(folder, pieces, **change).fingerprint != fingerprint
    (folder / "more.txt").write_text("one more")
    assert of(folder, pieces).fingerprint != fingerprint
    assert len({path.name for path in kept.iterdir() if path.is_dir()}) == 2 + 4 * 2


def test_limit_cuts_every_split(folder, pieces):
    assert of(folder, pieces, limit=3).sizes == {"train": 3, "validation": 3}


def test_a_resumed_loader_goes_on_in_mid_epoch(folder, pieces):
    def loader() -> Any:
        made = of(folder, pieces).train_dataloader()
        made.batch_sampler.set_epoch(1)
        return made

    whole = [batch["input_ids"].tolist() for batch in loader()]
    first = loader()
    reading = iter(first)
    begun = [next(reading)["input_ids"].tolist() for _ in range(5)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert begun + [batch["input_ids"].tolist() for batch in second] == whole


def test_it_is_one_of_several_tasks(folder, pieces):
    data = MultiTask({"mlm": of(folder, pieces), "again": of(folder, pieces, seed=1)})
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches: list[Any] = list(loader)
        assert {batch["task"] for batch in batches} == {"mlm", "again"}
        assert all((batch["labels"] != -100).any(1).all() for batch in batches)


def test_overfitting_sees_the_same_hidden_tokens(folder, pieces):
    rows = of(folder, pieces).train_dataset()
    assert isinstance(rows, MaskedRows)
    assert rows[3, 0]["labels"].tolist() == rows[3, 0]["labels"].tolist() != rows[3, 1]["labels"].tolist()


def test_real_text_is_packed_without_loss(data_root, tmp_path):
    data = LanguageModelling("sst2", text="sentence", root=data_root, max_length=64, cache_dir=tmp_path, limit=200)
    data.tokenizer = build_tokenizer(data.texts("validation"), vocab_size=500)
    data.setup("fit")
    assert data.sizes["train"] == 200
    assert set(data.rows("train").lengths.tolist()) == {64}
    unknown = (data.rows("train").fields["input_ids"] == data.tokenizer.unk_token_id).mean()
    assert unknown < 0.05


def test_a_data_set_of_the_hub_has_its_splits_there(monkeypatch, tmp_path, pieces):
    def load_dataset(name: str, subset: str | None, split: str) -> datasets.Dataset:
        assert (name, subset) == ("someone/wiki", "raw")
        texts = [" = Title = ", "", f"the film of {split}", None, "good"]
        return datasets.Dataset.from_dict({"text": texts, "body": ["bad"] * 5})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    hub: Any = {"hub": "someone/wiki", "subset": "raw", "tokenizer": pieces, "cache_dir": tmp_path}
    data = LanguageModelling(**hub)
    data.setup("fit")
    assert data.texts("validation") == ["= Title =", "the film of validation", "good"]
    assert data.texts("train") == ["= Title =", "the film of train", "good"]
    assert data.sizes == {"train": 1, "validation": 1}
    assert LanguageModelling(text="body", **hub).texts() == ["bad"] * 5
    with pytest.raises(DataError, match=r"someone/wiki:train has no column 'txt'\. Closest: text\."):
        LanguageModelling(text="txt", **hub).texts()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"holdout": 0.0}, "holdout is a share of the documents, above 0 and below 1; got 0.0"),
        ({"limit": 0}, "limit is a number of rows"),
        ({"share": 2.0}, "`share` to be from 0 to 1"),
        ({"holdout": 1e-9}, r"no text for validation in .*data\.validation=FILE"),
        ({"max_length": 2}, "max_length=2 leaves no room"),
        ({"validation": "nowhere.txt"}, "no file or folder nowhere.txt"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, pieces, settings, words):
    with pytest.raises(DataError, match=words):
        of(folder, pieces, **settings)


def test_no_text_a_second_tokenizer_and_augmentations_are_sentences(folder, pieces, tokenizer):
    with pytest.raises(DataError, match=r"There is no text: give data\.path=FILE"):
        LanguageModelling()
    with pytest.raises(DataError, match="leave `augment` out"):
        LanguageModelling(folder, augment=Delete(0.1))
    with pytest.raises(DataError, match="has no mask token"):
        of(folder, tokenizer)
    data = LanguageModelling(folder, tokenizer=pieces, cache_dir=folder.parent)
    data.teacher_tokenizer = tokenizer
    with pytest.raises(DataError, match="student and teacher have different vocabularies"):
        data.setup()
