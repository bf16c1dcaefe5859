from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kd_lightning.core.errors import DataError
from kd_lightning.data.text.questions import Questions
from kd_lightning.data.text.windows import Cut, _shortened, windows

from ...reading import PAIRS, asked, reader

CUT = Cut(max_length=24, stride=5, max_question_length=8)


def made(kind: str, rows: list[dict[str, Any]], cut: Cut = CUT) -> tuple[Any, Questions, Any]:
    tokenizer, questions = reader(kind), Questions.of(pa.Table.from_pylist(rows), "here")
    return windows(tokenizer, questions, cut), questions, tokenizer


def tokens_of(tokenizer: Any, text: str) -> list[tuple[int, int, int]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(i, *place) for i, place in zip(found["input_ids"], found["offset_mapping"], strict=True)]


def by_hand(kind: str, row: dict[str, Any], span: Any, cut: Cut) -> list[dict[str, Any]]:
    """All rows of one question, put together token by token."""
    tokenizer = reader(kind)
    question, context = (tokens_of(tokenizer, row[name]) for name in ("question", "context"))
    question = question[: cut.max_question_length]
    special = sum("[" in part for part in PAIRS[kind].split())
    room = cut.max_length - special - len(question)
    answer = [place for place in context if place[2] > span[0] and place[1] < span[1]] if span[0] >= 0 else []
    return [one_row(kind, question, part, answer) for part in parts(context, room, room - cut.stride, kind == "left")]


def parts(context: list[Any], room: int, step: int, from_the_end: bool) -> list[list[Any]]:
    """What each row has of a context: step by step, until its other end is reached."""
    if from_the_end:
        return [part[::-1] for part in parts(context[::-1], room, step, False)]
    found = [context[:room]]
    while context[(len(found) - 1) * step + room :]:
        found.append(context[len(found) * step : len(found) * step + room])
    return found


def one_row(kind: str, question: Any, part: Any, answer: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"input_ids": [], "token_type_ids": [], "logits_mask": [], "char_start": [], "char_end": []}
    for piece in PAIRS[kind].split():
        name, _, type_id = piece.partition(":")
        tokens = {"$A": question, "$B": part}.get(name)
        for token, begin, end in tokens if tokens is not None else [({"[CLS]": 2, "[SEP]": 3}[name], -1, -1)]:
            inside = name == "$B"
            row["input_ids"].append(token)
            row["token_type_ids"].append(int(type_id or 0))
            row["logits_mask"].append(int(inside or name == "[CLS]"))
            row["char_start"].append(begin if inside else -1)
            row["char_end"].append(end if inside else -1)
    nowhere = row["input_ids"].index(2) if kind != "bare" else 0
    row["logits_mask"][nowhere] = 1
    row["start_positions"] = row["end_positions"] = nowhere if answer else -100
    if answer and answer[0] in part and answer[-1] in part:
        row["start_positions"] = row["char_start"].index(answer[0][1])
        row["end_positions"] = row["char_end"].index(answer[-1][2])
    return row


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("cut", [CUT, Cut(24, 0, 8), Cut(46, 20, 3)], ids=["stride", "no stride", "mostly whole"])
def test_rows_are_those_put_together_by_hand(kind, cut):
    rows = asked(40)
    found, questions, _ = made(kind, rows, cut)
    expected = []
    for i, row in enumerate(rows):
        expected += [{"example": i} | part for part in by_hand(kind, row, questions.spans[i], cut)]
    if "token_type_ids" not in found.fields:
        expected = [{name: value for name, value in row.items() if name != "token_type_ids"} for row in expected]
    assert [as_row(found, i) for i in range(len(found))] == expected
    assert len(found) > 40


def as_row(rows: Any, row: int) -> dict[str, Any]:
    part = slice(rows.offsets[row], rows.offsets[row + 1])
    found = {name: field[part].tolist() for name, field in rows.fields.items()}
    found |= {name: rows.notes[name][part].tolist() for name in ("char_start", "char_end")}
    found |= {name: int(value[row]) for name, value in rows.values.items()}
    return found | {"example": int(rows.notes["example"][row])}


def test_places_give_back_the_text_of_each_token_and_every_word_is_in_some_row():
    rows = asked(30)
    found, _, tokenizer = made("bert", rows)
    seen = [set[int]() for _ in rows]
    examples = np.repeat(found.notes["example"], found.lengths)
    notes = found.notes["char_start"], found.notes["char_end"]
    for example, token, begin, end in zip(examples, found.fields["input_ids"], *notes, strict=True):
        if begin >= 0:
            seen[example] |= set(range(begin, end))
            assert tokenizer.convert_ids_to_tokens(int(token)) in (rows[example]["context"][begin:end], "[UNK]")
    for row, places in zip(rows, seen, strict=True):
        assert {i for i, c in enumerate(row["context"]) if not c.isspace() and c != "\u200b"} <= places


def test_an_answer_that_ends_in_what_is_no_token_is_found_all_the_same():
    row = {"id": "1", "question": "w1", "context": " w1 w2  w3", "answers": {"text": [" w1 w2 "], "answer_start": [0]}}
    found, _, _ = made("bert", [row])
    assert (found.values["start_positions"].tolist(), found.values["end_positions"].tolist()) == ([3], [4])


def test_an_answer_in_no_token_is_of_unknown_place():
    row = {"id": "1", "question": "w1", "context": "w1  w3", "answers": {"text": ["  "], "answer_start": [2]}}
    assert made("bert", [row])[0].values["start_positions"].tolist() == [-100]


def test_long_questions_are_cut_and_logged(caplog):
    rows = asked(20)  # every tenth question has nine words
    with caplog.at_level(logging.INFO):
        made("bert", rows)
    assert "2 of 20 questions are longer than 8 tokens and are cut" in caplog.text


@pytest.mark.parametrize("changes", [{"stride": 13}, {"stride": -1}, {"max_length": 11}, {"max_question_length": 0}])
def test_rows_without_room_for_a_context_are_errors(changes):
    assert len(made("bert", asked(5), Cut(**{**vars(CUT), "stride": 12}))[0]) > 5  # the largest that leaves any
    with pytest.raises(DataError, match=r"leave \d+ for the context, of which stride=-?\d+ overlap"):
        made("bert", asked(5), Cut(**{**vars(CUT), **changes}))


def test_a_tokenizer_without_offsets_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="Slow has no offsets, by which answers become tokens"):
        windows(Slow(), Questions.of(pa.Table.from_pylist(asked(1)), "here"), CUT)


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize("question", ["what is 각", "각각각각", "wha각", "𠀀𠀀 is it"])
def test_a_question_that_ends_in_the_middle_of_a_character_is_cut_before_it(question, limit):
    """Characters that a tokenizer takes apart share a place: several pieces, one character."""
    tokenizer = pieces_of_bytes()
    found = _shortened(tokenizer, [question], limit)[0]
    assert question.startswith(found)
    assert len(tokenizer(found, add_special_tokens=False)["input_ids"]) <= limit


def test_blanks_before_an_answer_belong_to_no_token_of_it():
    tokenizer = pieces_of_bytes(add_prefix_space=True)
    context = " ".join(["hello world what is this"] * 8)
    for word in re.finditer(r"\S+", context):
        asked = Questions(["1"], ["what"], [context], [[word[0]]], np.array([word.span()]))
        rows = windows(tokenizer, asked, Cut(40, 8, 6))
        for i in range(len(rows)):
            tokens = slice(rows.offsets[i], rows.offsets[i + 1])
            begins, ends = rows.notes["char_start"][tokens], rows.notes["char_end"][tokens]
            start, end = rows.values["start_positions"][i], rows.values["end_positions"][i]
            if word.start() in begins and word.end() in ends:
                assert (begins[start], ends[end]) == word.span()


def pieces_of_bytes(add_prefix_space: bool = False) -> Any:
    """Return a tokenizer whose pieces are bytes, as RoBERTa's fall apart into where it does not know a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names, words = ["<s>", "</s>", "<pad>"], ["Ġh", "Ġw", "Ġi", "Ġt"]  # a blank and the letter behind it
    vocabulary = {piece: number for number, piece in enumerate([*names, *alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(word[0], word[1]) for word in words]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=add_prefix_space)
    made = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **made)


def test_a_question_may_be_longer_than_the_last_context():
    asked = Questions(["1"], ["what is this hello world"], ["hello"], [["hello"]], np.array([(0, 5)]))
    rows = windows(pieces_of_bytes(), asked, Cut(60, 8, 40))
    (start,), (end,) = rows.values["start_positions"], rows.values["end_positions"]
    assert (rows.notes["char_start"][start], rows.notes["char_end"][end]) == (0, 5)
