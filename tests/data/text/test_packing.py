from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_lightning.core.errors import DataError
from kd_lightning.data import build_tokenizer
from kd_lightning.data.text.language_modelling import packed

TOKENIZER = build_tokenizer(["a b c d e f g"], vocab_size=30)
CLS, SEP = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id
LINE = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9).map(" ".join)
DOCUMENTS = st.lists(st.lists(LINE, min_size=1, max_size=3), min_size=1, max_size=6)


def rows_of(documents: list[list[str]], max_length: int) -> list[list[int]]:
    return [row.tolist() for rows in packed(TOKENIZER, documents, max_length) for row in rows]


@settings(deadline=None)
@given(documents=DOCUMENTS, max_length=st.integers(3, 12))
def test_rows_hold_every_token_in_order_with_a_mark_between_documents(documents, max_length):
    rows = rows_of(documents, max_length)
    assert all((row[0], row[-1]) == (CLS, SEP) for row in rows)
    assert {len(row) for row in rows[:-1]} <= {max_length}
    assert 3 <= len(rows[-1]) <= max_length
    stream = [token for row in rows for token in row[1:-1]]
    whole = [TOKENIZER.convert_tokens_to_ids(" ".join(document).split()) for document in documents]
    expected = [token for ids in whole for token in [*ids, SEP]]
    assert stream in (expected[:-1], expected)  # the last mark is there only where a row was full without it


def test_many_documents_come_out_as_few_do():
    documents = [["a b c"], ["d e"]] * 2000
    tokens = np.concatenate([np.array(row) for row in rows_of(documents, 64)])
    letters = TOKENIZER.convert_tokens_to_ids(list("abcde"))
    assert [(tokens == letter).sum() for letter in letters] == [2000] * 5


def test_rows_without_room_are_refused():
    with pytest.raises(DataError, match="max_length=2 leaves no room for text"):
        rows_of([["a"]], 2)
