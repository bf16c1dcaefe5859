from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from kd_lightning.core.errors import MatchError
from kd_lightning.metrics import MaskedTokens, Scores


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    made = []
    for rows, length in ((3, 7), (2, 5), (4, 9)):
        labels = torch.randint(0, 11, (rows, length))
        labels[torch.rand(rows, length) < 0.7] = -100
        made.append((torch.randn(rows, length, 11), labels))
    return made


def test_it_agrees_with_torchmetrics_over_batches_of_different_sizes():
    own, theirs = MaskedTokens(), Perplexity(ignore_index=-100)
    accuracy = MulticlassAccuracy(11, average="micro", ignore_index=-100)
    for logits, labels in batches():
        own.update({"logits": logits}, {"labels": labels})
        theirs.update(logits, labels)
        accuracy.update(logits.flatten(0, 1), labels.flatten())
    scores = own.compute()
    torch.testing.assert_close(scores["perplexity"], theirs.compute())
    torch.testing.assert_close(scores["accuracy"], accuracy.compute())


def test_reset_clears_the_counts_and_bfloat16_is_accepted():
    metric = MaskedTokens()
    first, second = batches()[:2]
    metric.update({"logits": first[0]}, {"labels": first[1]})
    metric.reset()
    metric.update({"logits": second[0].bfloat16()}, {"labels": second[1]})
    alone = MaskedTokens()
    alone.update({"logits": second[0].bfloat16().float()}, {"labels": second[1]})
    assert metric.compute() == alone.compute()


def test_a_batch_without_masked_tokens_changes_nothing():
    metric = MaskedTokens()
    (logits, labels), *_ = batches()
    metric.update({"logits": logits}, {"labels": labels})
    before = metric.compute()
    metric.update({"logits": logits * float("nan")}, {"labels": torch.full_like(labels, -100)})
    assert metric.compute() == before


def test_scores_have_its_own_names():
    assert Scores({"masked_tokens": MaskedTokens()}).names == ["perplexity", "accuracy"]


def test_logits_of_one_label_per_row_raise():
    with pytest.raises(MatchError, match=r"shape \(2, 3\) and labels of shape \(2, 5\)"):
        MaskedTokens().update({"logits": torch.zeros(2, 3)}, {"labels": torch.zeros(2, 5, dtype=torch.long)})
