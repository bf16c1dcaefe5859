from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from transformers import PreTrainedTokenizerFast

from kd_lightning.core.errors import DataError
from kd_lightning.data import Mask, SequenceLabelling, build_tokenizer
from kd_lightning.data.sources import Source, class_names
from kd_lightning.data.text.tagged_rows import check_word_tokenizer
from kd_lightning.tasks import TokenClassificationTask

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES: list[tuple[list[str], list[str]]] = [
    (["Ada", "Lovelace", "saw", "London"], ["B-PER", "I-PER", "O", "B-LOC"]),
    ([], []),
    (["\u200b", "Ada", "\u00ad"], ["O", "B-PER", "I-PER"]),
    (["\u200b"], ["B-LOC"]),
    (["saw", "Newfoundland-Labrador", "."], ["O", "B-LOC", "O"]),
]


@pytest.fixture
def tokenizer() -> Any:
    """Knows letters and a few words, so that most words have several pieces, and drops control characters."""
    return build_tokenizer(["Ada saw London .", "abcdefghijklmnopqrstuvwxyzLN-"], vocab_size=60, lowercase=False)


def longer(count: int = 30, words: int = 40) -> list[tuple[list[str], list[str]]]:
    """Return random sentences of words of one to six letters."""
    draw = random.Random(0)
    made = [
        ["".join(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(draw.randint(1, words))]
        for _ in range(count)
    ]
    return [(words, draw.choices(LABELS, k=len(words))) for words in made]


def write(root: Path, sentences: Any, split: str = "train", **columns: Any) -> Path:
    words, tags = pa.array([w for w, _ in sentences], pa.list_(pa.string())), [tags for _, tags in sentences]
    file = root / "names" / f"{split}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"tokens": words, "ner_tags": tags} | columns), file)
    return root


def data(root: Path, tokenizer: Any, **settings: Any) -> SequenceLabelling:
    settings = {"labels": LABELS, "splits": {"train": "train"}, "batch_size": 4, "cache_dir": root / "cache"} | settings
    return SequenceLabelling("names", tokenizer=tokenizer, root=root, **settings)


def by_hand(tokenizer: Any, words: list[str], tags: list[str]) -> tuple[list[int], list[int]]:
    """Tokenise a sentence word by word; return ids and labels of its row."""
    ids, labels = [tokenizer.cls_token_id], [-100]
    for word, tag in zip(words, tags, strict=True):
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        ids += pieces
        labels += ([LABELS.index(tag)] + [-100] * (len(pieces) - 1)) if pieces else []
    return [*ids, tokenizer.sep_token_id], [*labels, -100]


@pytest.mark.parametrize("sentences", [SENTENCES, longer()], ids=["odd", "random"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_words_first_piece_has_its_tag_and_no_other_token_counts(tmp_path, tokenizer, sentences, side):
    tokenizer.padding_side = side
    made = data(write(tmp_path, sentences), tokenizer, max_length=512)
    expected = [by_hand(tokenizer, *sentence) for sentence in sentences]
    expected = [row for row in expected if len(row[0]) > 2]  # no row without a word
    seen = 0
    for batch in made.train_dataloader():
        assert torch.equal(batch["logits_mask"].bool(), batch["labels"] != -100)
        for row, sample in enumerate(batch["sample_id"].tolist()):
            real = batch["attention_mask"][row].bool()
            ids, labels = (batch[name][row][real].tolist() for name in ("input_ids", "labels"))
            assert (ids, labels) == expected[sample]
            assert set(batch["labels"][row][~real].tolist()) <= {-100}
            seen += 1
    assert seen == len(expected) == made.sizes["train"]


def test_each_word_of_a_long_sentence_counts_in_one_row_and_nothing_is_cut_in_silence(tmp_path, tokenizer, caplog):
    sentences = [*longer(), (["word"], ["O"]), (["abcdefgh" * 4, "cab"], ["B-PER", "I-PER"])]
    made = data(write(tmp_path, sentences), tokenizer, max_length=16)
    with caplog.at_level(logging.INFO):
        made.setup()
    rows = made.rows("train")
    assert rows.lengths.max() == 16
    assert sorted(rows.notes["words"].tolist()) == list(range(sum(len(words) for words, _ in sentences)))
    begins = [sum(len(words) for words, _ in sentences[:i]) for i in range(len(sentences) + 1)]
    assert rows.notes["sentences"].tolist() == begins
    flat = [(word, LABELS.index(tag)) for sentence in sentences for word, tag in zip(*sentence, strict=True)]
    for row in range(len(rows)):
        counted = rows[row]["logits_mask"].astype(bool)
        numbers = rows.notes["words"][slice(*rows.notes["word_offsets"][row : row + 2])].tolist()
        assert rows[row]["labels"][counted].tolist() == [flat[number][1] for number in numbers]
        firsts = [tokenizer(flat[number][0], add_special_tokens=False)["input_ids"][0] for number in numbers]
        assert rows[row]["input_ids"][counted].tolist() == firsts
        assert rows[row]["input_ids"][[0, -1]].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    cut = [s for s in sentences if len(by_hand(tokenizer, *s)[0]) > 16]
    whole = len(sentences) - len(cut)
    message = f"{len(cut)} of {len(sentences)} sentences are longer than 16 tokens and became {len(rows) - whole} rows"
    assert message in caplog.text
    assert "names train: words longer than a row, of which it has the beginning: 1." in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        data(tmp_path, tokenizer, max_length=16).setup()
    assert message in caplog.text  # also of rows that were tokenised before


def test_sentences_are_rebuilt_from_rows_in_any_order_and_lost_words_are_outside(tmp_path, tokenizer):
    sentences = [*longer(), *SENTENCES]
    made = data(write(tmp_path, sentences), tokenizer, max_length=16)
    rows = made.rows("train")
    order = random.Random(1).sample(range(len(rows)), len(rows))
    given = torch.cat([torch.tensor(rows[row]["labels"][rows[row]["logits_mask"] == 1]) for row in order]).numpy()
    whole = made.rebuild("train", torch.tensor(order).numpy(), given)
    assert whole.numbers == list(range(len(sentences)))
    assert whole.gold == [tags for _, tags in sentences]
    lost = [*[tags for _, tags in longer()], SENTENCES[0][1], [], ["O", "B-PER", "O"], ["O"], SENTENCES[4][1]]
    assert whole.predicted == lost
    missing = order.index(0)
    count = int(rows[0]["logits_mask"].sum())
    before = sum(int(rows[row]["logits_mask"].sum()) for row in order[:missing])
    given = torch.cat([torch.tensor(given[:before]), torch.tensor(given[before + count :])]).numpy()
    assert made.rebuild("train", torch.tensor(order[:missing] + order[missing + 1 :]).numpy(), given).numbers == list(
        range(1, len(sentences))
    )


def test_tags_may_be_numbers_of_the_names_the_table_has_or_of_the_labels(tmp_path, tokenizer):
    from datasets import ClassLabel, Dataset, Features, List, Value

    words, tags = ["Ada", "saw", "London"], ["B-PER", "O", "B-LOC"]
    other = ["B-LOC", "I-LOC", "O", "B-PER", "I-PER"]
    numbers = {"labels": [LABELS.index(tag) for tag in tags], "names": [other.index(tag) for tag in tags]}
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=other))})
    (tmp_path / "names").mkdir()
    named = Dataset.from_dict({"tokens": [words], "ner_tags": [numbers["names"]]}, features=features)
    named.to_parquet(tmp_path / "names" / "train.parquet")
    assert data(tmp_path, tokenizer).sentences("train").tags == [numbers["labels"]]
    write(tmp_path, [(words, numbers["labels"])])
    assert data(tmp_path, tokenizer).sentences("train").tags == [numbers["labels"]]


def test_columns_with_other_names_keep_what_their_numbers_stand_for(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=LABELS))})
    (tmp_path / "names").mkdir()
    table = Dataset.from_dict({"tokens": [["Ada"]], "tags": [[1]]}, features=features)
    table.to_parquet(tmp_path / "names" / "train.parquet")
    source = Source("names", "train", tmp_path, rename={"tags": "ner_tags", "tokens": "words", "more": "other"})
    assert source.table().column_names == ["words", "ner_tags"]
    assert class_names(source.table(), "ner_tags") == LABELS
    assert class_names(source.table(), "words") is None


def test_the_names_the_hub_has_for_numbers_count_in_the_fingerprint(tmp_path, tokenizer, monkeypatch):
    from datasets import ClassLabel, Dataset, Features, List, Value

    prints = set()
    for names in (LABELS, LABELS[::-1]):
        features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
        table = Dataset.from_dict({"tokens": [["Ada"]], "ner_tags": [[1]]}, features=features)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, table=table, **__: table)
        hub = SequenceLabelling("names", LABELS, tokenizer=tokenizer, hub="some/names", splits={"train": "train"})
        prints.add(hub.fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ((["Ada"], ["B-GPE"]), r"column 'ner_tags', row 0 has the tag 'B-GPE', which data\.labels does not name\."),
        ((["Ada"], [5]), r"row 0 has the tag 5, which data\.labels does not name\."),
        ((["Ada"], [-1]), r"row 0 has the tag -1, which"),
        ((["Ada", "saw"], ["O"]), r"row 0, has 2 words \('tokens'\) but 1 tags \('ner_tags'\)\."),
        ((["Ada", None], ["O", "O"]), r"row 0, holds \['Ada', None\] in column 'tokens', where a list of words"),
        ((["Ada"], None), r"row 0, holds None in column 'ner_tags', where a list of tags"),
        ((["\u200b"], ["O"]), r"no word in any sentence"),
    ],
)
def test_sentences_that_cannot_be_used_are_named(tmp_path, tokenizer, sentence, message):
    with pytest.raises(DataError, match=message):
        data(write(tmp_path, [sentence]), tokenizer).setup()


def test_a_column_of_whole_texts_is_an_error(tmp_path, tokenizer):
    write(tmp_path, SENTENCES[:1], text=["Ada saw London"])
    with pytest.raises(DataError, match=r"row 0, holds 'Ada saw London' in column 'text', where a list of words"):
        data(tmp_path, tokenizer, tokens="text").setup()
    with pytest.raises(DataError, match=r"no column 'token'\. Closest: tokens, text\."):
        data(tmp_path, tokenizer, tokens="token").setup()


def test_settings_out_of_range_are_errors(tmp_path, tokenizer):
    root = write(tmp_path, SENTENCES)
    for settings, sentence in [
        ({"labels": ["B-PER"]}, "labels needs the tag 'O'"),
        ({"labels": ["O", "B-PER", "O"]}, "labels names O more than once"),
        ({"augment": [Mask(0.1)]}, "Augmentations change tokens"),
    ]:
        with pytest.raises(DataError, match=sentence):
            data(root, tokenizer, **settings)
    with pytest.raises(DataError, match="max_length=2 leaves no room for words"):
        data(root, tokenizer, max_length=2).setup()
    two = data(root, tokenizer)
    two.teacher_tokenizer = build_tokenizer(["another one"])
    with pytest.raises(DataError, match="one tokenizer, and here student and teacher have different vocabularies"):
        two.setup()


def test_tokenizers_that_cannot_take_words_are_errors(tmp_path, tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers

    root = write(tmp_path, SENTENCES)
    for nested in (False, True):
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence([bytes_of]) if nested else bytes_of
        with pytest.raises(DataError, match="add_prefix_space=True"):
            data(root, PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")).setup()
    slow = type("Slow", (), {"is_fast": False, "pad_token_id": 0, "model_max_length": 512, "__call__": len})
    slow.__getattr__ = lambda self, name: getattr(tokenizer, name)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"need a fast tokenizer.* Slow is slow"):
        check_word_tokenizer(slow())


@pytest.mark.parametrize("change", [{"labels": [*LABELS, "B-ORG"]}, {"max_length": 16}, {"limit": 1}])
def test_every_setting_that_shapes_rows_counts_in_the_fingerprint(tmp_path, tokenizer, change):
    root = write(tmp_path, SENTENCES)
    assert data(root, tokenizer).fingerprint != data(root, tokenizer, **change).fingerprint


def test_models_learn_the_names_of_the_tags(tmp_path, tokenizer):
    from transformers import BertConfig

    config = BertConfig(**TokenClassificationTask("f1").model_options(data(write(tmp_path, SENTENCES), tokenizer)))
    assert (config.num_labels, config.id2label[1], config.label2id["I-LOC"]) == (5, "B-PER", 4)


def test_a_tokenizer_made_from_the_text_can_tell_capital_letters():
    text = ["Ada saw ada , Élan and elan"] * 3
    assert build_tokenizer(text, lowercase=False).tokenize("Ada ada Élan") == ["Ada", "ada", "Élan"]
    assert build_tokenizer(text).tokenize("Ada ada Élan") == ["ada", "ada", "elan"]


def test_texts_are_words_with_blanks_between_them(tmp_path, tokenizer):
    assert data(write(tmp_path, SENTENCES[:2]), tokenizer).texts() == ["Ada Lovelace saw London", ""]


@pytest.mark.parametrize("side", ["right", "left"])
def test_losses_run_over_the_first_pieces_of_words_and_nothing_else(tmp_path, tokenizer, side):
    import kd_lightning as kd

    tokenizer.padding_side = side
    made = data(write(tmp_path, longer()), tokenizer, max_length=16)
    batch = next(iter(made.train_dataloader()))
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*batch["input_ids"].shape, len(LABELS), generator=draw) for _ in range(2))
    terms = {
        "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
    }
    parts = kd.Objective(terms)({"logits": student}, {"logits": teacher}, batch).parts
    places = [
        (row, place)
        for row, labels in enumerate(batch["labels"].tolist())
        for place, tag in enumerate(labels)
        if tag >= 0
    ]
    p, q = (torch.stack([logits[place] for place in places]).log_softmax(-1) for logits in (teacher, student))
    torch.testing.assert_close(parts["logits"], (p.exp() * (p - q)).sum(-1).mean())
    tags = [int(batch["labels"][place]) for place in places]
    torch.testing.assert_close(parts["hard"], -torch.stack([q[i, tag] for i, tag in enumerate(tags)]).mean())
