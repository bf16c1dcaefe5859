"""Other logits, batches and loaders than a classifier's: the same student again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import textbrewer
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification

import kd_lightning as kd
from kd_lightning.compat.textbrewer import adapter, objective, training

from ..toys import VOCABULARY, mlp, pairs, ready, trainer, words
from .theirs import (
    RATE,
    adaptor,
    assert_same_weights,
    batches,
    bold,
    distilled_by_them,
    distilled_by_us,
    models,
    our_module,
    their_config,
    train_theirs,
    visible,
)

SGD = partial(torch.optim.SGD, lr=RATE)
MATCHES = [
    {"feature": "hidden", "loss": "hidden_mse", "layer_T": 4, "layer_S": 2, "weight": 1, "proj": ["tanh", 16, 16]},
    {"feature": "hidden", "loss": "nst", "layer_T": [1, 2], "layer_S": [0, 1], "weight": 1},
    {"feature": "attention", "loss": "attention_ce", "layer_T": 3, "layer_S": 0, "weight": 1},
]


def headed(kind: type, layers: int, seed: int, labels: int = 3) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=labels,
        initializer_range=0.4,
    )
    return kind(config)


# -- a row of logits for each token


def tagged(seed: int) -> dict[str, Tensor]:
    batch = words(seed=seed)
    labels = torch.randint(0, 3, batch["input_ids"].shape, generator=torch.Generator().manual_seed(seed))
    return {**batch, "labels": labels.masked_fill(batch["attention_mask"] == 0, -100)}


def tagger(batch: Any, outputs: Any) -> dict[str, Any]:
    return {
        "logits": outputs["logits"],
        "losses": outputs["loss"],
        "logits_mask": batch["attention_mask"],
        "inputs_mask": batch["attention_mask"],
    }


@pytest.mark.parametrize("scheduler", ["none", ["flsw", 1.5, 2], ["cwsm", 0.5]], ids=str)
@pytest.mark.parametrize("kind", ["ce", "mse"])
def test_logits_of_tokens_count_where_they_are_no_padding(kind, scheduler, tmp_path):
    teacher, student = headed(BertForTokenClassification, 3, 1), headed(BertForTokenClassification, 2, 0)
    config = {"kd_loss_type": kind, "temperature_scheduler": scheduler, "hard_label_weight": 0.5}
    data = [tagged(i) for i in range(5)]
    theirs = distilled_by_them(tmp_path, config, teacher, student, data, adaptors=(tagger, tagger))
    ours = our_module(config, teacher, student)
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)


# -- two rows of logits for each sample


def asked(seed: int) -> dict[str, Tensor]:
    batch = words(seed=seed)
    del batch["labels"]
    ends = torch.randint(0, 4, (2, 4), generator=torch.Generator().manual_seed(seed)).sort(0).values
    return {**batch, "start_positions": ends[0], "end_positions": ends[1]}


def finder(batch: Any, outputs: Any) -> dict[str, Any]:
    return {
        "logits": (outputs["start_logits"], outputs["end_logits"]),
        "losses": outputs["loss"],
        "labels": (batch["start_positions"], batch["end_positions"]),
    }


@pytest.mark.parametrize("shift", [False, True])
def test_losses_of_start_and_end_logits_are_summed(shift, tmp_path):
    teacher, student = (headed(BertForQuestionAnswering, layers, layers, labels=2) for layers in (3, 2))
    config = {"temperature": 2, "probability_shift": shift, "hard_label_weight": 0.5}
    data = [asked(i) for i in range(5)]
    theirs = distilled_by_them(tmp_path, config, teacher, student, data, adaptors=(finder, finder))
    ours = our_module(config, teacher, student, logits=("start_logits", "end_logits"))
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)


# -- their adaptors


class Positional(nn.Module):
    """A model of no known kind: takes positions, returns a tuple."""

    def __init__(self, layers: int, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.inner = visible(bold(layers, width, seed=seed))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Any, ...]:
        found = self.inner(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        return found.loss, found.logits, found.hidden_states, found.attentions


def tuples(batch: Any, outputs: Any) -> dict[str, Any]:
    loss, logits, hidden, attention = outputs
    _, mask, labels = batch
    found = {"logits": logits, "hidden": hidden, "attention": attention, "inputs_mask": mask}
    return {**found, "losses": [loss, 0.1 * logits.square().mean(-1)], "labels": labels}


def without_mask(batch: Any, outputs: Any) -> dict[str, Any]:
    return {key: value for key, value in tuples(batch, outputs).items() if key != "inputs_mask"}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("own", [tuples, without_mask])
def test_adaptors_say_where_features_masks_and_labels_are(own, shift, tmp_path):
    teacher, student = Positional(4, seed=1), Positional(2)
    data = [tuple(batch.values()) for batch in batches()]
    config = {"hard_label_weight": 0.5, "probability_shift": shift, "intermediate_matches": MATCHES}
    ours = kd.DistillationModule(
        copy.deepcopy(student),
        kd.LiveTeacher(copy.deepcopy(teacher), adapter=adapter(own)),
        objective(config, features="adaptors"),
        optimizer=SGD,
        adapter=adapter(own),
    )
    theirs = textbrewer.GeneralDistiller(
        their_config(tmp_path),
        textbrewer.DistillationConfig.from_dict(copy.deepcopy(config)),
        teacher,
        copy.deepcopy(student),
        own,
        own,
    )
    projection = ours.objective.named_terms()["hidden_mse_2_4"].loss.projection
    theirs.projs[0].load_state_dict(projection.state_dict())
    train_theirs(theirs, data)
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)
    assert_same_weights(projection, theirs.projs[0])


def test_one_mask_serves_several_logits(tmp_path):
    """TextBrewer means it to, but adds an axis to the mask for each of the logits, and crashes at the second."""

    def twice(batch: Any, outputs: Any) -> dict[str, Any]:
        both = [outputs["logits"], outputs["logits"].square()]
        return {"logits": both, "logits_mask": batch["attention_mask"], "losses": outputs["loss"]}

    def with_two_masks(batch: Any, outputs: Any) -> dict[str, Any]:
        return {**twice(batch, outputs), "logits_mask": [batch["attention_mask"]] * 2}

    teacher, student = headed(BertForTokenClassification, 3, 1), headed(BertForTokenClassification, 2, 0)
    data = [tagged(i) for i in range(5)]
    with pytest.raises(RuntimeError, match="expand"):
        distilled_by_them(tmp_path, {}, teacher, student, data, adaptors=(twice, twice))
    theirs = distilled_by_them(tmp_path, {}, teacher, student, data, adaptors=(with_two_masks, with_two_masks))
    ours = kd.DistillationModule(
        copy.deepcopy(student),
        kd.LiveTeacher(teacher, adapter=adapter(twice)),
        objective({}, logits=("logits_0", "logits_1"), features="adaptors"),
        optimizer=SGD,
        adapter=adapter(twice),
    )
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)


# -- what the teacher has said before


def test_batches_that_bring_a_teachers_output(tmp_path):
    teacher, student = models()
    seen = visible(teacher).eval()
    data = []
    for i, batch in enumerate(batches()):
        parts: dict[str, Any] = {"student": batch, "teacher": batch}
        if i % 2 == 0:
            with torch.no_grad():
                parts["teacher_cache"] = dict(seen(**batch).items())
        data.append(parts)
    config = {"intermediate_matches": MATCHES[1:]}
    theirs = distilled_by_them(tmp_path, config, teacher, student, data)
    ours = our_module(config, kd.BatchTeacher(teacher), student)
    distilled_by_us(tmp_path, ours, data)
    assert_same_weights(ours.student, theirs.model_S, student)


# -- loaders without a length, and batches that are changed on their way


class Stream(IterableDataset[Any]):
    """Batches without a length; starts anew when it is through."""

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        yield from self.data


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_number_of_steps_over_a_loader_without_a_length(accumulated, tmp_path):
    """Three rounds of four batches in ten; both schedules run over the steps."""
    teacher, student = models()
    config = {
        "kd_loss_weight_scheduler": "linear_decay",
        "hard_label_weight_scheduler": "linear_growth",
        "intermediate_matches": MATCHES[1:],
    }
    stream: Any = DataLoader(Stream(batches(4)), batch_size=None)
    settings = {"ckpt_steps": 2, "gradient_accumulation_steps": accumulated}
    train = {"num_epochs": None, "num_steps": 5}
    theirs = distilled_by_them(tmp_path, config, teacher, student, stream, train=train, **settings)
    ours = our_module(config, teacher, student)
    made = training({**settings, "output_dir": str(tmp_path / "ours"), "device": "cpu"}, num_steps=5)
    trainer(tmp_path, **{**made.trainer, "enable_checkpointing": True}).fit(ours, stream)
    assert ours.trainer.global_step == 5
    assert ours.trainer.current_epoch >= 1
    assert_same_weights(ours.student, theirs.model_S, student)
    names = {file.name for file in (tmp_path / "ours").iterdir()}
    assert names == {"gs2.ckpt", "gs4.ckpt", "last.ckpt"}


def test_the_callback_counts_steps_over_a_loader_without_a_length(tmp_path):
    from ..training.modules_of_users import Classifier

    seen: list[float] = []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return progress

    term = kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(2.0), schedule=schedule)
    guest = kd.DistillationCallback(mlp(7, seed=1), kd.Objective({"soft": term}))
    stream: Any = DataLoader(Stream([pairs(seed=i) for i in range(3)]), batch_size=None)
    run = trainer(tmp_path, max_steps=5, callbacks=[guest])
    run.fit(Classifier(), stream)
    assert run.global_step == 5
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


def cut(batch: Any) -> Any:
    """A postprocessor: the first five tokens only."""
    return {key: value[:, :5] if value.dim() == 2 else value for key, value in batch.items()}


class Cutting(kd.DistillationModule):
    """Changes batches in Lightning's way."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return cut(batch)


def test_a_postprocessor_is_a_hook_of_lightning(tmp_path):
    teacher, student = models()
    config = {"intermediate_matches": MATCHES[1:]}
    theirs = distilled_by_them(
        tmp_path, config, teacher, student, batches(), train={"batch_postprocessor": cut}
    )  # fmt: skip
    ours = Cutting(copy.deepcopy(student), teacher, objective(config), optimizer=SGD)
    distilled_by_us(tmp_path, ours, batches())
    assert_same_weights(ours.student, theirs.model_S, student)


def test_a_hosts_own_postprocessor_reaches_the_callback(tmp_path):
    from ..training.modules_of_users import Classifier

    class Doubling(Classifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            return 2 * x, y

    ends = []
    data = [pairs(seed=i) for i in range(3)]
    for host, rows in ((Doubling(mlp(5)), data), (Classifier(mlp(5)), [(2 * x, y) for x, y in data])):
        term = kd.Term(kd.Match("0", "0"), kd.losses.HiddenMSE())
        guest = kd.DistillationCallback(mlp(5, seed=1), kd.Objective({"hidden": term}))
        trainer(tmp_path, max_epochs=1, callbacks=[guest]).fit(host, ready(rows))
        ends.append(host.model)
    assert_same_weights(*ends)


def test_their_adaptor_serves_models_that_are_addressed_too(tmp_path):
    teacher, student = (visible(model) for model in models())
    ours = our_module({"intermediate_matches": MATCHES[1:]}, teacher, student)
    adapted = kd.DistillationModule(
        copy.deepcopy(student),
        kd.LiveTeacher(copy.deepcopy(teacher), adapter=adapter(adaptor)),
        objective({"intermediate_matches": MATCHES[1:]}),
        optimizer=SGD,
        adapter=adapter(adaptor),
    )
    for module in (ours, adapted):
        distilled_by_us(tmp_path, module, batches())
    assert_same_weights(adapted.student, ours.student, student)
