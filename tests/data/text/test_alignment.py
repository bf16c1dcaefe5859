"""Tokens of two tokenizers, numbered by the words they share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kd_lightning.core.errors import DataError
from kd_lightning.data import (
    DualTokenizedRows,
    SyntheticSentiment,
    TextClassification,
    build_tokenizer,
    dual_tokenized_rows,
)
from kd_lightning.data.text.alignment import align

TEXTS = [
    "The unbelievable film wasn't good, was it?",
    "a plot of plots: untold, retold, unbelievably foretold",
    "好电影 and a 坏 plot",
    "   spaces   everywhere  ",
    "…",
]


def byte_pairs(texts: list[str] = TEXTS, size: int = 300) -> PreTrainedTokenizerFast:
    """A RoBERTa-like tokenizer: bytes, merged; a space belongs to the word after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_max_length=128,
    )  # fmt: skip


def word_pieces() -> PreTrainedTokenizerFast:
    return build_tokenizer(TEXTS, vocab_size=120)


def covered(tokenizer: PreTrainedTokenizerFast, text: str, word_ids: list[int], max_length: int = 64) -> dict[int, str]:
    """Return the characters, without spaces, that the tokens of each number cover."""
    offsets = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)["offset_mapping"]
    places: dict[int, set[int]] = {}
    for number, (start, end) in zip(word_ids, offsets, strict=True):
        if number >= 0:
            places.setdefault(number, set()).update(range(start, end))
    return {number: "".join(text[i] for i in sorted(own)).strip() for number, own in places.items()}


def numbers(text: str, student: object, teacher: object, max_length: int = 64) -> tuple[list[int], list[int]]:
    row = dual_tokenized_rows(student, teacher, [[text]], np.array([0]), max_length)[0]
    return row["student"]["word_ids"].tolist(), row["teacher"]["word_ids"].tolist()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("turned", [False, True])
def test_tokens_of_one_number_cover_the_same_characters_on_both_sides(text, turned):
    pair = (byte_pairs(), word_pieces())
    student, teacher = pair[::-1] if turned else pair
    own, other = numbers(text, student, teacher)
    assert covered(student, text, own) == covered(teacher, text, other)


def test_a_word_in_many_pieces_is_one_word():
    own, other = numbers("unbelievable film", byte_pairs(), word_pieces())
    assert len(own) != len(other)
    assert max(own) == max(other) == 2
    for ids in (own, other):
        assert ids[0] == 0
        assert ids[-1] == -1
        assert sorted(set(ids)) == [-1, 0, 1, 2]


def test_numbers_have_no_gaps_and_rise():
    own, other = numbers(TEXTS[1], byte_pairs(), word_pieces())
    for ids in (own, other):
        inner = [i for i in ids if i >= 0]
        assert inner == sorted(inner)
        assert set(inner) == set(range(max(inner) + 1))


def test_words_that_one_side_cuts_off_have_no_number_on_the_other():
    student, teacher = byte_pairs(size=261), word_pieces()
    own, other = numbers(TEXTS[1], student, teacher, max_length=12)
    assert len(own) == 12
    assert max(own) == max(other)
    assert {i for i in own if i >= 0} == {i for i in other if i >= 0}


def test_the_two_texts_of_a_pair_are_kept_apart():
    rows = dual_tokenized_rows(byte_pairs(), word_pieces(), [["a film"], ["a film"]], np.array([0]), 64)
    own, other = (rows[0][role]["word_ids"].tolist() for role in ("student", "teacher"))
    assert max(own) == max(other) == 4


def test_one_tokenizer_twice_numbers_every_word():
    own, other = numbers(TEXTS[0], word_pieces(), word_pieces())
    assert own == other


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab .,'好\u00a0é", max_size=20), st.randoms(use_true_random=False))
def test_alignment_joins_exactly_the_finest_stretches_both_sides_can_tell_apart(text, random):
    """Property, for any way to cut a text: numbers of a side rise, and both sides' stretches are equal."""

    def cut() -> list[tuple[int, int, int] | None]:
        places = sorted({0, len(text), *(random.randrange(len(text) + 1) for _ in range(random.randrange(6)))})
        pieces = []
        for a, b in itertools.pairwise(places):
            span = text[a:b]
            left, right = len(span) - len(span.lstrip()), len(span) - len(span.rstrip())
            pieces.append((0, a + left, b - right) if span.strip() else None)
        return pieces

    student, teacher = cut(), cut()
    own, other = align([text], student, teacher)
    stretches = []
    for pieces, ids in ((student, own), (teacher, other)):
        inner = [i for i in ids.tolist() if i >= 0]
        assert inner == sorted(inner)
        spans: dict[int, set[int]] = {}
        for piece, number in zip(pieces, ids.tolist(), strict=True):
            if number >= 0 and piece is not None:
                spans.setdefault(number, set()).update(i for i in range(piece[1], piece[2]) if not text[i].isspace())
        stretches.append({number: places for number, places in spans.items() if places})
    assert stretches[0] == stretches[1]


def test_rows_of_two_tokenizers_are_kept_on_disk_and_found_again(tmp_path):
    rows = dual_tokenized_rows(byte_pairs(), word_pieces(), [TEXTS], np.arange(5) % 2, 64)
    rows.save(tmp_path)
    again = DualTokenizedRows.open(tmp_path)
    assert len(again) == 5
    for row in range(5):
        for role in ("student", "teacher"):
            for name, value in rows[row][role].items():
                assert again[row][role][name].tolist() == value.tolist()
    assert again.lengths.tolist() == np.maximum(rows.student.lengths, rows.teacher.lengths).tolist()


def test_a_tokenizer_without_offsets_is_a_sentence():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="The teacher's Slow does not say where its tokens lie in the text"):
        dual_tokenized_rows(word_pieces(), Slow(), [["a"]], np.array([0]), 8)


def test_a_data_module_makes_batches_of_two_parts_each_padded_by_itself():
    data = SyntheticSentiment(40, 20, batch_size=4)
    data.teacher_tokenizer = byte_pairs(data.texts(), size=400)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"student", "teacher", "labels", "sample_id"}
    for role, tokenizer in (("student", data.tokenizer), ("teacher", data.teacher_tokenizer)):
        part = batch[role]
        assert part["input_ids"].shape == part["attention_mask"].shape == part["word_ids"].shape
        assert (part["input_ids"][part["attention_mask"] == 0] == tokenizer.pad_token_id).all()
        assert (part["word_ids"][part["attention_mask"] == 0] == -1).all()
    assert batch["student"]["input_ids"].shape != batch["teacher"]["input_ids"].shape


def test_another_teacher_tokenizer_makes_another_fingerprint_and_other_rows(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "toy").mkdir()
    for split in ("train", "validation"):
        parquet.write_table(pa.table({"text": TEXTS, "label": [0, 1, 0, 1, 0]}), tmp_path / "toy" / f"{split}.parquet")
    made = []
    for teacher in (None, byte_pairs(), byte_pairs(size=261)):
        data = TextClassification("toy", "text", root=tmp_path, tokenizer=word_pieces(), cache_dir=tmp_path / "cache")
        data.teacher_tokenizer = teacher
        data.setup()
        made.append(data)
    assert len({data.fingerprint for data in made}) == 3
    assert [type(data.rows("train")).__name__ for data in made] == [
        "TokenRows",
        "DualTokenizedRows",
        "DualTokenizedRows",
    ]
    assert len(made[2].rows("train")[0]["teacher"]["input_ids"]) > len(made[1].rows("train")[0]["teacher"]["input_ids"])
