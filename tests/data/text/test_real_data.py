from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from pyarrow import parquet

from kd_lightning.cli.configs import compose_config
from kd_lightning.core.errors import DataError
from kd_lightning.data import SequenceLabelling, TextClassification, build_tokenizer


@pytest.fixture
def real(data_root: Path) -> Path:
    if not (data_root / "sst2").is_dir():
        pytest.skip(f"no data sets in {data_root}; set KD_DATA to a folder that has sst2/ and rte/")
    return data_root


@pytest.mark.slow
def test_sst2_is_read_whole(real, tokenizer, tmp_path):
    data = TextClassification("sst2", "sentence", tokenizer=tokenizer, root=real, cache_dir=tmp_path, batch_size=64)
    data.setup("fit")
    assert data.sizes == {"train": 67349, "validation": 872}
    labels = [label for batch in data.val_dataloader() for label in batch["labels"].tolist()]
    assert (labels.count(1), labels.count(0)) == (444, 428)
    train = data.train_dataloader()
    assert sum(int(batch["labels"].sum()) for batch in train) == 37569
    assert len(train) == -(-67349 // 64)


def test_rte_is_read_as_pairs(real, tokenizer, tmp_path):
    text = ["sentence1", "sentence2"]
    data = TextClassification("rte", text, tokenizer=tokenizer, root=real, cache_dir=tmp_path, max_length=64)
    data.setup("fit")
    assert data.sizes == {"train": 2490, "validation": 277}
    batch = next(iter(data.train_dataloader()))
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}
    assert batch["input_ids"].shape[1] <= 64


SPLITS = {"mrpc": ("train", "test"), "ocnli": ("train_10k", "validation")}
SPLITS |= dict.fromkeys(("snli", "lcqmc"), ("validation", "test"))  # their training rows are not here


@pytest.mark.parametrize("name", ["cola", "rte", "mrpc", "sick", "snli", "ocnli", "lcqmc", "chnsenticorp"])
def test_each_data_set_is_read_by_its_configuration(name, real, tokenizer, tmp_path):
    train, validation = SPLITS.get(name, ("train", "validation"))
    typed = [f"data.splits.train={train}", f"data.splits.validation={validation}"]
    data = instantiate(compose_config([f"data={name}", f"data.root={real}", *typed]).data)
    data.tokenizer, data.cache_dir = tokenizer, tmp_path
    data.setup("fit")
    train, validation = (parquet.read_table(real / name / f"{stem}.parquet") for stem in (train, validation))
    assert data.sizes == {"train": train.num_rows, "validation": validation.num_rows}
    found = {}
    for batch in data.val_dataloader():
        found |= dict(zip(batch["sample_id"].tolist(), batch["labels"].tolist(), strict=True))
    assert [label for _, label in sorted(found.items())] == validation["label"].to_pylist()


def test_similarities_are_numbers_from_0_to_5(real, tokenizer, tmp_path):
    data = instantiate(compose_config(["data=stsb", f"data.root={real}"]).data)
    data.tokenizer, data.cache_dir = tokenizer, tmp_path
    data.setup("fit")
    assert data.sizes == {"train": 5749, "validation": 1500}
    labels = [label for batch in data.val_dataloader() for label in batch["labels"].tolist()]
    assert (min(labels), max(labels)) == (0.0, 5.0)
    assert 0 < sum(label != round(label) for label in labels) < len(labels)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lcqmc", "Type data.splits.train=validation data.splits.validation=test"),
        ("ocnli", "Type data.splits.train=train_10k"),
        ("mrpc", "Type data.splits.validation=test"),
    ],
)
def test_a_split_that_is_not_here_is_answered_with_what_to_type(name, words, real, tokenizer, tmp_path):
    data = instantiate(compose_config([f"data={name}", f"data.root={real}"]).data)
    data.tokenizer, data.cache_dir = tokenizer, tmp_path
    with pytest.raises(DataError, match=words):
        data.setup("fit")


def read_tagged(folder: Path, name: str, tmp_path: Path, **settings: Any) -> SequenceLabelling:
    """Read a data set of tagged words whole, with a tokenizer of its own characters."""
    if not (folder / name).is_dir():
        pytest.skip(f"no {name} in {folder}")
    types = ["PER", "ORG", "LOC", "MISC"] if name == "conll2003" else ["PER", "ORG", "LOC"]
    labels = ["O", *(f"{place}-{kind}" for kind in types for place in "BI")]
    data = SequenceLabelling(name, labels, root=folder, cache_dir=tmp_path, **settings)
    data.tokenizer = build_tokenizer(data.texts("validation"), vocab_size=6000, lowercase=False)
    data.setup()
    return data


def entities(data: SequenceLabelling, split: str) -> Counter[str]:
    """Count the beginnings of entities among the labels of all rows."""
    labels = data.rows(split).fields["labels"]  # type: ignore[union-attr]
    names = Counter(data.classes[label] for label in labels[labels != -100].tolist())
    return Counter({name.removeprefix("B-"): count for name, count in names.items() if name.startswith("B-")})


def test_conll2003_is_read_whole(real, tmp_path):
    data = read_tagged(real, "conll2003", tmp_path, max_length=256)
    assert data.sizes == {"train": 14041, "validation": 3250}
    assert [len(data.rows(split).notes["tags"]) for split in data.sizes] == [203621, 51362]
    # as in the shared task's own table (Tjong Kim Sang and De Meulder 2003, table 2)
    assert entities(data, "train") == {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}
    assert entities(data, "validation") == {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}


@pytest.mark.slow
def test_no_character_of_msra_ner_is_lost_where_sentences_are_cut(real, tmp_path):
    data = read_tagged(real, "msra_ner", tmp_path, splits={"train": "train", "validation": "test"}, max_length=128)
    whole = {split: len(data.rows(split).notes["sentences"]) - 1 for split in data.sizes}
    assert whole == {"train": 45000, "validation": 3442}
    assert data.sizes["train"] > whole["train"] + 841  # 842 sentences have more than 126 characters
    assert data.rows("train").lengths.max() <= 128
    assert entities(data, "train") == {"LOC": 36517, "ORG": 20571, "PER": 17615}
    assert entities(data, "validation") == {"LOC": 2877, "ORG": 1331, "PER": 1973}
