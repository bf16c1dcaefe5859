"""The real data sets of questions, where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from kd_lightning.data import QuestionAnswering, build_tokenizer
from kd_lightning.data.text.questions import Questions
from kd_lightning.data.text.windows import Cut, windows
from kd_lightning.metrics import AnswerScores


@pytest.fixture
def real(data_root: Path) -> Path:
    if not (data_root / "cmrc2018").is_dir():
        pytest.skip(f"no data sets in {data_root}; set KD_DATA to a folder that has cmrc2018/, drcd/ and squad_v1_dev/")
    return data_root


def read(file: Path) -> Questions:
    return Questions.of(parquet.read_table(file), file)


def recovered(asked: Questions, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which questions have their answer in some row; and which of them to the character."""
    found, exact = np.zeros(len(asked), bool), np.zeros(len(asked), bool)
    starts, ends = rows.values["start_positions"], rows.values["end_positions"]
    for row in np.flatnonzero(starts > 0):  # 0 is [CLS]
        example, first = rows.notes["example"][row], rows.offsets[row]
        span = rows.notes["char_start"][first + starts[row]], rows.notes["char_end"][first + ends[row]]
        begin, end = asked.spans[example]
        assert span[0] < end
        assert span[1] > begin
        found[example] = True
        exact[example] |= span == (begin, end)
    return found, exact


@pytest.mark.parametrize(
    ("file", "questions", "usable", "apart"),
    [
        pytest.param("cmrc2018/validation", 3219, 3219, 0.001, marks=pytest.mark.slow),
        ("cmrc2018/trial", 1002, 1002, 0.01),
        pytest.param("drcd/validation", 3524, 3524, 0.002, marks=pytest.mark.slow),
        # as many have a place that is certain
        pytest.param("squad_v1_dev/validation", 10570, 9835, 0.002, marks=pytest.mark.slow),
        ("xquad/zh", 1190, 1190, 0.002),
    ],
)
def test_answers_are_found_again_from_their_tokens(real, file, questions, usable, apart):
    asked = read(real / f"{file}.parquet")
    tokenizer = build_tokenizer([*dict.fromkeys(asked.contexts), *asked.questions])
    rows = windows(tokenizer, asked, Cut(512, 128, 64))
    known = asked.spans[:, 0] >= 0
    assert (len(asked), known.sum()) == (questions, usable)
    unlabelled = set(rows.notes["example"][rows.values["start_positions"] == -100].tolist())
    assert unlabelled == set(np.flatnonzero(~known).tolist())
    assert set(rows.notes["example"].tolist()) == set(range(questions))  # blank questions too
    found, exact = recovered(asked, rows)
    assert found[~known].sum() == 0
    assert found[known].mean() > 0.999
    assert exact[known].mean() > 1 - apart  # the others begin or end in the middle of a word, or with a space


def test_answers_without_a_place_are_evaluated(real):
    asked = read(real / "cmrc2018" / "validation.parquet")
    answers = parquet.read_table(real / "cmrc2018" / "validation.parquet")["answers"].to_pylist()
    assert sum(start == -1 for answer in answers for start in answer["answer_start"]) == 193
    assert sum(map(len, asked.answers)) == 9657
    assert sum(not question.strip() for question in read(real / "cmrc2018" / "trial.parquet").questions) == 2


@pytest.mark.slow
def test_the_right_logits_get_nearly_everything(real, tmp_path):
    import torch

    settings: dict[str, Any] = {"root": real, "cache_dir": tmp_path, "max_answer_length": 100, "limit": 600}
    data = QuestionAnswering("cmrc2018", extra=["drcd"], **settings)
    data.tokenizer = build_tokenizer(data.texts())
    metric = AnswerScores(data, "chinese")
    for batch in data.val_dataloader():
        features = {}
        for name, places in (("start_logits", "start_positions"), ("end_logits", "end_positions")):
            features[name] = torch.nn.functional.one_hot(batch[places], batch["input_ids"].shape[1]) * 9.0
        metric.update(features, batch)
    scores = metric.compute()
    assert len(metric.predicted) == 600
    assert scores["exact_match"] > 99
    assert scores["f1"] >= scores["exact_match"]
    assert len(data.questions("train")) == 1200
