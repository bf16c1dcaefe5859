"""Mistakes that would train silently wrong: shared memory, lost gradients, weights that are no numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import kd_lightning as kd
from kd_lightning.core.errors import CacheError, ConfigError, MatchError, NonFiniteLossError
from kd_lightning.objective.masks import feature_mask
from kd_lightning.teachers.identity import weights_hash

from ..toys import mlp, pairs, ready, trainer

SOFT = kd.Objective({"soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0))})


def test_memory_of_a_teachers_weight_or_buffer_is_not_shared() -> None:
    student, teacher = mlp(8), mlp(8, seed=1)
    student[0].weight = nn.Parameter(teacher[0].weight.data)
    with pytest.raises(ConfigError, match=r"share the parameter '0\.weight'"):
        kd.DistillationModule(student, teacher, SOFT)
    student, teacher = (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2))
    student[1].running_mean = teacher[1].running_mean
    with pytest.raises(ConfigError, match=r"share the buffer '1\.running_mean'"):
        kd.DistillationModule(student, teacher, SOFT)


class Detached(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.head = mlp(8), nn.Linear(3, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        with torch.no_grad():
            found = self.student(batch[0])
        return nn.functional.cross_entropy(self.head(found), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_student_without_gradients_is_an_error(tmp_path: Path) -> None:
    callback = kd.DistillationCallback(mlp(16, seed=1), SOFT, student="student")
    runner = trainer(tmp_path, callbacks=[callback], max_steps=1, limit_val_batches=0)
    with pytest.raises(ConfigError, match=r"student's features have no gradient"):
        runner.fit(Detached(), ready([pairs()]))


class Spoil(pl.Callback):
    """Gives a parameter a gradient that is not a number."""

    def on_before_optimizer_step(self, runner: Any, module: Any, optimizer: Any) -> None:
        module.student[0].weight.grad.fill_(float("nan"))


def test_a_last_step_that_spoils_the_weights_is_an_error(tmp_path: Path) -> None:
    module = kd.DistillationModule(mlp(8), mlp(16, seed=1), SOFT, partial(torch.optim.SGD, lr=0.1))
    runner = trainer(tmp_path, callbacks=[Spoil()], max_steps=1, limit_val_batches=0)
    with pytest.raises(NonFiniteLossError, match=r"non-finite in the last step, in '0\.weight'"):
        runner.fit(module, ready([pairs()]))


def test_quantised_teachers_differ_by_their_packed_weights() -> None:
    class Packed(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def get_extra_state(self) -> dict[str, float]:
            return {"value": self.value}

        def set_extra_state(self, state: dict[str, float]) -> None:
            self.value = state["value"]

    assert weights_hash(Packed(1.0)) == weights_hash(Packed(1.0)) != weights_hash(Packed(2.0))


def test_a_cache_keeps_no_answers_that_are_not_numbers(tmp_path: Path) -> None:
    teacher = mlp(8)
    with torch.no_grad():
        teacher[2].bias.fill_(float("nan"))
    batch = {"x": pairs()[0], "sample_id": torch.arange(8)}
    source = kd.LiveTeacher(teacher, adapter=kd.Adapter(inputs=lambda given: given["x"]))
    quiet = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(CacheError, match="'logits' is not a number in some row"):
        kd.TeacherCache.build(source, [batch], tmp_path / "cache", ["logits"], trainer=quiet)


def test_labels_and_logits_mask_count_without_an_attention_mask() -> None:
    logits, labels = torch.zeros(2, 3, 5), torch.tensor([[1, -100, 2], [-100, 0, -100]])
    assert torch.equal(feature_mask("logits", logits, {"labels": labels}), labels != -100)  # type: ignore[arg-type]
    chosen = torch.tensor([[1, 0, 0], [1, 1, 0]])
    found = feature_mask("logits", logits, {"labels": labels, "logits_mask": chosen})
    assert torch.equal(found, chosen.bool())  # type: ignore[arg-type]
    assert feature_mask("hidden.1", logits, {"labels": labels}) is None
    assert feature_mask("logits", logits[:, 0], {"labels": labels}) is None


def gpt(width: int = 8) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(width)
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=width, n_layer=1, n_head=2, n_positions=8))


def test_labels_of_a_causal_model_are_not_taken_unshifted() -> None:
    hard = kd.Objective({"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())})
    with pytest.raises(MatchError, match=r"causal language model.*labels of the batch stand beside the wrong logits"):
        kd.DistillationModule(gpt(), None, hard)
    module = kd.DistillationModule(gpt(), gpt(16), SOFT).eval()
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
    batch = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    assert torch.isfinite(module.compare(batch).total)
    labels = torch.where(tokens > 2, tokens, -100)
    with pytest.raises(MatchError, match="labels of −100 would leave out the wrong ones"):
        module.compare(batch | {"labels": labels})
    chosen = module.compare(batch | {"labels": labels, "logits_mask": batch["attention_mask"]}).total
    assert torch.equal(chosen, module.compare(batch).total)


def test_a_decoder_has_a_mask_of_its_own() -> None:
    hidden, own = torch.zeros(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch = {"attention_mask": torch.ones(2, 3), "decoder_input_ids": torch.ones(2, 3, dtype=torch.long)}
    assert feature_mask("decoder.hidden.1", hidden, batch, "tokens", decoder=True) is None
    batch["decoder_attention_mask"] = own
    assert feature_mask("decoder.hidden.1", hidden, batch, "tokens", decoder=True) is own
    assert feature_mask("encoder.hidden.1", hidden, batch, "tokens") is batch["attention_mask"]
