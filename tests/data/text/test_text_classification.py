from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from kd_lightning.core.errors import DataError
from kd_lightning.data import TextClassification


def films(root: Path, tokenizer: Any, **settings: Any) -> TextClassification:
    settings = {"text": "sentence", "num_labels": 2, "batch_size": 4, "cache_dir": root.parent / "cache"} | settings
    return TextClassification("films", tokenizer=tokenizer, root=root, **settings)


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root.parent / "cache" / "data").glob("films-*"))


def test_batches_hold_the_tokens_and_labels_of_the_rows_they_name(root, tokenizer):
    data = films(root, tokenizer)
    data.setup("fit")
    table = parquet.read_table(root / "films" / "train.parquet").to_pylist()
    seen = []
    for batch in data.train_dataloader():
        for row in range(len(batch["labels"])):
            sample = batch["sample_id"][row].item()
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            assert ids.tolist() == tokenizer(table[sample]["sentence"])["input_ids"]
            assert batch["labels"][row].item() == table[sample]["label"]
            seen.append(sample)
    assert sorted(seen) == list(range(40))
    assert data.sizes == {"train": 40, "validation": 11}
    assert data.num_labels == 2


def test_validation_batches_hold_every_row_once(root, tokenizer):
    loader = films(root, tokenizer).val_dataloader()
    assert sorted(sample for batch in loader for sample in batch["sample_id"].tolist()) == list(range(11))


def test_a_second_module_reuses_the_tokens_and_logs_it(root, tokenizer, caplog):
    films(root, tokenizer).setup()
    before = {path: path.stat().st_mtime_ns for path in (root.parent / "cache").rglob("*.npy")}
    with caplog.at_level(logging.INFO):
        films(root, tokenizer, batch_size=2, seed=9).setup()
    assert caplog.text.count("reused") == 2
    assert {path: path.stat().st_mtime_ns for path in (root.parent / "cache").rglob("*.npy")} == before


def test_calling_the_tokenizer_in_another_way_changes_nothing(root, tokenizer):
    before = films(root, tokenizer).fingerprint
    tokenizer(["good", "bad film"], padding="max_length", truncation=True, max_length=6)
    assert films(root, tokenizer).fingerprint == before


@pytest.mark.parametrize(
    "change", [{"max_length": 4}, {"limit": 3}, {"num_labels": 3}, {"label": "other"}, {"text": ["sentence", "more"]}]
)
def test_every_setting_that_shapes_rows_makes_new_tokens(root, tokenizer, change):
    for split in ("train", "validation"):
        table = parquet.read_table(root / "films" / f"{split}.parquet")
        table = table.append_column("other", table["label"]).append_column("more", table["sentence"])
        parquet.write_table(table, root / "films" / f"{split}.parquet")
    first, second = films(root, tokenizer), films(root, tokenizer, **change)
    first.setup()
    second.setup()
    assert len(kept(root)) == 4
    assert first.fingerprint != second.fingerprint


def test_another_tokenizer_makes_new_tokens(root, tokenizer, make_tokenizer):
    data = films(root, tokenizer)
    data.setup()
    first = next(iter(data.val_dataloader()))["input_ids"]
    data.tokenizer = make_tokenizer(["film", "plot", "very", "not", "good", "bad"])
    data.setup()
    assert len(kept(root)) == 4
    assert next(iter(data.val_dataloader()))["input_ids"].tolist() != first.tolist()


def test_changed_files_make_new_tokens(root, tokenizer, write_rows):
    films(root, tokenizer).setup()
    write_rows(root / "films" / "train.parquet", sentence=["good", "bad"], label=[1, 0])
    data = films(root, tokenizer)
    data.setup()
    assert data.sizes["train"] == 2
    assert len(kept(root)) == 3  # validation is as it was


def test_limit_cuts_every_split(root, tokenizer):
    data = films(root, tokenizer, limit=5)
    data.setup()
    assert data.sizes == {"train": 5, "validation": 5}


def test_rows_are_cut_to_max_length(root, tokenizer):
    assert max(batch["input_ids"].shape[1] for batch in films(root, tokenizer, max_length=5).train_dataloader()) == 5


def test_pairs_are_tokenised_together(root, tokenizer, write_rows):
    for split in ("train", "validation"):
        write_rows(root / "films" / f"{split}.parquet", a=["good", "bad film"], b=["plot", "very good"], label=[0, 1])
    data = films(root, tokenizer, text=["a", "b"])
    batch = next(iter(data.val_dataloader()))
    row = batch["sample_id"].tolist().index(1)
    expected = tokenizer("bad film", "very good")
    assert batch["input_ids"][row].tolist() == expected["input_ids"]
    assert batch["token_type_ids"][row].tolist() == expected["token_type_ids"]
    assert data.texts("validation") == ["good", "plot", "bad film", "very good"]


def test_a_test_split_is_there_when_named(root, tokenizer):
    assert films(root, tokenizer).test_dataloader() == []
    data = films(root, tokenizer, splits={"train": "train", "test": "validation"})
    assert len(data.test_dataloader().dataset) == 11
    assert {batch["split"] for batch in data.test_dataloader()} == {"test"}
    assert data.val_dataloader() == []


def test_a_damaged_cache_is_built_anew(root, tokenizer, caplog):
    films(root, tokenizer).setup()
    file = next((root.parent / "cache" / "data").glob("films-train-*/field.input_ids.npy"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    films(root, tokenizer).setup()
    assert file.read_bytes() == whole
    assert "is damaged ('field.input_ids.npy' has" in caplog.text


def test_missing_places_are_named_with_the_nearest_choice(root, tokenizer):
    with pytest.raises(DataError, match=r"no data folder /nowhere; give data\.root=DIR"):
        TextClassification("films", "sentence", tokenizer=tokenizer, root="/nowhere").setup()
    with pytest.raises(DataError, match=r"no data set 'film' in .* Closest: films\."):
        TextClassification("film", "sentence", tokenizer=tokenizer, root=root).setup()
    with pytest.raises(DataError, match=r"no dev\.parquet in .*films\. Choices: train, validation\."):
        films(root, tokenizer, splits={"train": "train", "validation": "dev"}).setup()
    with pytest.raises(DataError, match=r"no column 'sentense'\. Closest: sentence\."):
        films(root, tokenizer, text="sentense").setup()
    with pytest.raises(DataError, match=r"no column 'labels'\. Closest: label\."):
        films(root, tokenizer, label="labels").setup()


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "has no rows"),
        ({"sentence": ["a", "b"], "label": [0, 2]}, r"row 1 holds 2 where a label from 0 to 1"),
        ({"sentence": ["a", "b"], "label": [-1, 0]}, r"row 0 holds -1 where a label from 0 to 1"),
        ({"sentence": ["a", "b"], "label": ["yes", "no"]}, r"row 0 holds 'yes' where a label"),
        ({"sentence": ["a", "b"], "label": [0, None]}, r"row 1 holds None where a label"),
        ({"sentence": ["a", None], "label": [0, 1]}, r"column 'sentence', row 1 holds None where a text"),
    ],
)
def test_rows_that_cannot_be_used_are_named(root, tokenizer, write_rows, columns, sentence):
    write_rows(root / "films" / "train.parquet", **columns)
    with pytest.raises(DataError, match=rf"train\.parquet.* {sentence}"):
        films(root, tokenizer).setup()
    assert not [name for name in kept(root) if "train" in name]


def test_a_damaged_file_is_named(root, tokenizer):
    (root / "films" / "train.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"train\.parquet is not a readable Parquet file"):
        films(root, tokenizer).setup()


def test_without_network_the_folder_is_asked_for(tokenizer, monkeypatch, tmp_path):
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub (offline).\nmore lines")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    data = TextClassification("sst2", "sentence", tokenizer=tokenizer, hub="nyu-mll/glue", cache_dir=tmp_path)
    with pytest.raises(DataError, match=r"Cannot get 'nyu-mll/glue' .*\(offline\)\); give data\.root=DIR") as caught:
        data.setup()
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"'sst2' is not on the hub; give data\.root=DIR"):
        TextClassification("sst2", "sentence", tokenizer=tokenizer, cache_dir=tmp_path).setup()


def test_what_the_hub_gives_is_read_like_a_file(root, tokenizer, monkeypatch, tmp_path):
    import datasets

    def load_dataset(name: str, subset: str | None, split: str) -> datasets.Dataset:
        assert (name, subset) == ("some/films", "plain")
        rows = {"train": 6, "validation": 3}[split]
        return datasets.Dataset.from_dict({"sentence": ["good film"] * rows, "label": [1] * rows})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    hub = {"hub": "some/films", "subset": "plain", "num_labels": 2, "cache_dir": tmp_path}
    data = TextClassification("films", "sentence", tokenizer=tokenizer, **hub)
    data.setup()
    assert data.sizes == {"train": 6, "validation": 3}
    assert data.fingerprint == TextClassification("films", "sentence", tokenizer=tokenizer, **hub).fingerprint
    with pytest.raises(DataError, match=r"some/films:train has no column 'text'"):
        TextClassification("films", "text", tokenizer=tokenizer, **hub).setup()


def test_settings_out_of_range_are_errors(root, tokenizer):
    for settings, sentence in [
        ({"limit": 0}, "limit is a number of rows"),
        ({"text": ["a", "b", "c"]}, "one column, or two"),
        ({"splits": {"validate": "validation"}}, "'validate'. Closest: validation"),
    ]:
        with pytest.raises(DataError, match=sentence):
            films(root, tokenizer, **settings)
    with pytest.raises(DataError, match="needs a tokenizer"):
        films(root, None).setup()
    with pytest.raises(DataError, match="not str"):
        films(root, "bert-base-uncased").setup()
    tokenizer.model_max_length = 64
    with pytest.raises(DataError, match="max_length=128 is more than the 64 tokens"):
        films(root, tokenizer).setup()


@pytest.mark.parametrize(("columns", "special"), [(["sentence"], 2), (["sentence", "sentence"], 3)])
def test_rows_that_have_no_room_for_a_text_are_errors(root, tokenizer, make_tokenizer, columns, special):
    for length in (1, special):
        with pytest.raises(DataError, match=rf"max_length={length} leaves no room.* data.max_length={special + 1} or"):
            films(root, tokenizer, text=columns, max_length=length).setup()
    films(root, tokenizer, text=columns, max_length=special + 1).setup()
    data = films(root, make_tokenizer(), text=columns, max_length=special)
    data.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0}, "[PAD]")), pad_token="[PAD]"
    )
    data.teacher_tokenizer = tokenizer
    with pytest.raises(DataError, match="leaves no room"):
        data.setup()


def test_arguments_of_the_bases_are_taken_and_others_are_not(root, tokenizer):
    assert films(root, tokenizer, eval_batch_size=7, pin_memory=False).eval_batch_size == 7
    with pytest.raises(TypeError, match="max_lenght"):
        films(root, tokenizer, max_lenght=64)
