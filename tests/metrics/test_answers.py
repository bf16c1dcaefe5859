from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.text import squad

from kd_lightning.core.errors import ConfigError
from kd_lightning.data import QuestionAnswering
from kd_lightning.metrics import Answers, AnswerScores

from ..reading import asked, library, reader, write


def reads(root: Path, kind: str = "bert", **settings: Any) -> QuestionAnswering:
    settings = {"max_length": 24, "stride": 5, "max_question_length": 8, "batch_size": 4, "n_best": 3} | settings
    return QuestionAnswering("reads", reader(kind), root=root, cache_dir=root.parent / "cache", **settings)


def logits(batch: Any) -> dict[str, torch.Tensor]:
    """Logits that depend on the row and on where in it a token is, whatever batch it is in and where padding goes."""
    before = batch["attention_mask"].argmax(1, keepdim=True)
    places = torch.arange(batch["input_ids"].shape[1]) - before + 0.377 * batch["sample_id"][:, None]
    return {"start_logits": 3 * torch.sin(places * 1.7), "end_logits": 3 * torch.sin(places * 2.9 + 1)}


def by_trying_all(data: QuestionAnswering) -> dict[str, list[tuple[str, float]]]:
    """Every span of every row of every question, from the best sum of logits, each text once."""
    rows, questions = data.rows("validation"), data.questions("validation")
    spans: dict[str, list[tuple[float, str]]] = {name: [] for name in questions.ids}
    for i in range(len(rows)):
        part = slice(rows.offsets[i], rows.offsets[i + 1])
        begins, ends = (rows.notes[name][part] for name in ("char_start", "char_end"))
        row = {"attention_mask": torch.ones(1, len(begins)), "input_ids": torch.ones(1, len(begins))}
        found = logits(row | {"sample_id": torch.tensor([i])})
        one, other = (found[name][0] for name in ("start_logits", "end_logits"))
        context = questions.contexts[rows.notes["example"][i]]
        for a in range(len(begins)):
            for b in range(a, min(a + data.max_answer_length, len(begins))):
                nowhere = a == 0 and data.tokenizer.cls_token is None  # the first token, which means "no answer here"
                if begins[a] >= 0 and begins[b] >= 0 and not nowhere:
                    text = context[begins[a] : ends[b]].strip()
                    spans[questions.ids[rows.notes["example"][i]]].append(((one[a] + other[b]).item(), text))
    best: dict[str, dict[str, float]] = {name: {} for name in spans}
    for name, found_here in spans.items():
        for total, text in sorted(found_here, reverse=True):
            best[name].setdefault(text, total)
    return {name: list(texts.items()) for name, texts in best.items()}


def fed(metric: Any, data: QuestionAnswering) -> Any:
    for batch in data.val_dataloader():
        metric.update(logits(batch), batch)
    return metric


@pytest.mark.parametrize("kind", ["bert", "left", "xlnet", "bare"])
@pytest.mark.parametrize("longest", [4, 30])
def test_the_best_spans_over_all_rows_are_found_and_scored_as_torchmetrics_does(tmp_path, kind, longest):
    data = reads(library(tmp_path / "data"), kind, max_answer_length=longest, n_best=50)
    data.setup()
    metric = fed(AnswerScores(data), data)
    scores = metric.compute()
    expected = by_trying_all(data)
    assert set(metric.predicted) == set(expected)
    for name, found in metric.predicted.items():
        assert found[0][0] == expected[name][0][0]
        assert [total for _, total in found[:10]] == pytest.approx(
            [total for _, total in expected[name][:10]], abs=1e-5
        )
    answers = {row["id"]: row["answers"] for row in asked(11, seed=1)}
    theirs = squad(
        [{"id": name, "prediction_text": found[0][0]} for name, found in expected.items()],
        [{"id": name, "answers": answer} for name, answer in answers.items()],
    )
    assert {name: value.item() for name, value in scores.items()} == pytest.approx(
        {name: value.item() for name, value in theirs.items()}, abs=1e-4
    )
    assert scores["f1"] > 0


@pytest.mark.parametrize("rows", [1, 5])
def test_scores_do_not_depend_on_batching(tmp_path, rows):
    data = reads(library(tmp_path / "data"))
    alone = reads(data.sources["train"].root, eval_batch_size=rows, group_by_length=False)
    one, other = fed(Answers(data), data), fed(Answers(alone), alone)
    assert one.compute() == other.compute() == {}
    assert one.predicted.keys() == other.predicted.keys()
    for name, found in one.predicted.items():
        assert [text for text, _ in found] == [text for text, _ in other.predicted[name]]


def test_right_answers_score_100_and_files_have_the_official_format(tmp_path):
    rows = asked(8)
    rows[0]["question"] = ""
    rows[1]["answers"] = {"text": ["w1 w2", "nowhere"], "answer_start": [-1, -1]}  # evaluated all the same
    rows[1]["context"] = "w1 w2 w3"
    for i, row in enumerate(rows):
        if i != 1:
            row["answers"] = {"text": [row["context"].split()[1]], "answer_start": [0]}
    for split in ("train", "validation"):
        write(tmp_path / "data" / "reads" / f"{split}.parquet", rows)
    data = reads(tmp_path / "data")
    metric = AnswerScores(data)
    for batch in data.val_dataloader():
        features = {name: torch.zeros(batch["input_ids"].shape) for name in metric.addresses}
        for row, sample in enumerate(batch["sample_id"].tolist()):
            made, questions = data.rows("validation"), data.questions("validation")
            part = slice(made.offsets[sample], made.offsets[sample + 1])
            example = int(made.notes["example"][sample])
            text, context = questions.answers[example][0], questions.contexts[example]
            begin = context.index(text)
            for name, note, edge in (
                ("start_logits", "char_start", begin),
                ("end_logits", "char_end", begin + len(text)),
            ):
                features[name][row, : part.stop - part.start][torch.tensor(made.notes[note][part] == edge)] = 9.0
        metric.update(features, batch)
    assert {name: value.item() for name, value in metric.compute().items()} == {"exact_match": 100.0, "f1": 100.0}
    file = metric.write(tmp_path)
    assert json.loads(file.read_text()) == {row["id"]: row["answers"]["text"][0] for row in rows}
    for found in json.loads((tmp_path / "nbest_predictions.json").read_text()).values():
        assert sum(one["probability"] for one in found) == pytest.approx(1)
        assert found[0]["probability"] == max(one["probability"] for one in found)
        assert len({one["text"] for one in found}) == len(found) <= data.n_best


def test_a_context_without_any_token_gets_an_empty_answer(tmp_path):
    rows = asked(2)
    rows[0]["context"] = ""
    for split in ("train", "validation"):
        write(tmp_path / "data" / "reads" / f"{split}.parquet", rows)
    data = reads(tmp_path / "data")
    metric = fed(Answers(data), data)
    metric.compute()
    assert metric.predicted["q0"] == [("", 0.0)]
    assert metric.predicted["q1"][0][0]


def test_questions_without_predictions_do_not_count(tmp_path):
    data = reads(library(tmp_path / "data"))
    metric = AnswerScores(data)
    batch = next(iter(data.val_dataloader()))
    metric.update(logits(batch), batch)
    scores = metric.compute()
    questions = data.questions("validation")
    seen = {questions.ids[data.rows("validation").notes["example"][i]] for i in batch["sample_id"].tolist()}
    assert set(metric.predicted) == seen
    references = {name: texts for name, texts in zip(questions.ids, questions.answers, strict=True) if name in seen}
    theirs = squad(
        [{"id": name, "prediction_text": metric.predicted[name][0][0]} for name in seen],
        [{"id": name, "answers": {"text": texts}} for name, texts in references.items()],
    )
    assert scores["f1"] == pytest.approx(theirs["f1"].item())


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_without_batches_nothing_is_predicted(tmp_path, language):
    metric = AnswerScores(reads(library(tmp_path / "data")), language)
    assert {name: value.item() for name, value in metric.compute().items()} == {"exact_match": 0, "f1": 0}
    assert json.loads(metric.write(tmp_path).read_text()) == {}


def test_chinese_answers_are_scored_by_characters(tmp_path):
    data = reads(library(tmp_path / "data"))
    metric = fed(AnswerScores(data, "chinese"), data)
    assert metric.compute()["f1"] >= metric.compute()["exact_match"]
    mine = fed(AnswerScores(data, lambda found, right: {"exact_match": len(found), "f1": len(right)}), data)
    assert {name: value.item() for name, value in mine.compute().items()} == {"exact_match": 11, "f1": 11}
    with pytest.raises(ConfigError, match="no scorer of answers for language 'french'"):
        AnswerScores(data, "french")


def test_copies_share_the_data_but_no_state(tmp_path):
    data = reads(library(tmp_path / "data"))
    metric = fed(Answers(data), data)
    other = copy.deepcopy(metric)
    assert other.data.value is data
    other.reset()
    fed(other, data)
    metric.compute()
    other.compute()
    assert metric.predicted == other.predicted
