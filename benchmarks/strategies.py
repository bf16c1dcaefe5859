"""A step of each strategy, of weighted rows and of teachers made of students: ours against the same loop by hand.

python -m benchmarks.strategies [--teacher minilm-size] [--batch 32] [--length 32] [--rounds 6] [--steps 10]

A teacher of the named size teaches a student of half its layers. Both sides are LightningModules that a Trainer each
trains for a few steps at a time, in turn, on the same batches; a step is the time from one batch's end to the next
one's. By hand is what one writes for this one method without a library. But for the layers that are drawn, both train
the same weights, as a test shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

import kd_lightning as kd
from benchmarks import arguments
from benchmarks.images import QUIET, StepTimes
from benchmarks.models import Batch, make_batches, make_teacher
from benchmarks.report import Row, Target, publish, time_rows, timed_target_rows
from benchmarks.timing import turns

BY_HAND = ", by hand"
WAYS = ("soft targets", "rows by entropy", "moving average", "two peers", "layers left out", "theseus")
TARGETS = tuple(Target(f"{way} / by hand", way, way + BY_HAND, 1.08) for way in WAYS)
DECAY, RATE = 0.99, 0.5
ADAMW = partial(torch.optim.AdamW, lr=1e-4)


class ByHand(LightningModule):
    """Labels and soft targets, as one writes them; the other loops are built on it."""

    make_optimizer: Callable[..., torch.optim.Optimizer] = ADAMW

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False) if teacher is not None else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        batch = {name: value for name, value in batch.items() if name != "sample_id"}
        labels = batch.pop("labels")
        loss = self.loss(batch, labels)
        self.log("train/loss", loss)
        return loss

    def loss(self, batch: Batch, labels: Tensor) -> Tensor:
        """Return the loss of one batch."""
        with torch.no_grad():
            target = self.teacher(**batch).logits
        logits = self.student(**batch).logits
        return F.cross_entropy(logits, labels) + self.soft(logits, target)

    def soft(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what the teacher's logits ask for."""
        return soft_rows(logits, target).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make an optimizer for what is trained."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


def soft_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) of each row at a temperature of 2, times 4."""
    both = (logits / 2).log_softmax(-1), (target / 2).log_softmax(-1)
    return 4 * F.kl_div(*both, reduction="none", log_target=True).sum(-1)


class WeightedByHand(ByHand):
    """Rows count by how sure the teacher is."""

    def soft(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean."""
        p = target.log_softmax(-1)
        weights = 1 + (p.exp() * p).sum(-1) / torch.log(torch.tensor(float(p.shape[-1])))
        return (soft_rows(logits, target) * weights / weights.mean()).mean()


class AverageByHand(ByHand):
    """The student's moving average teaches."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)

        def average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
            return DECAY * old + (1 - DECAY) * new

        averaged = AveragedModel(student, avg_fn=average)
        averaged.n_averaged.fill_(1)
        self.__dict__["teacher"] = averaged.module.eval().requires_grad_(False)
        self.__dict__["averaged"] = averaged

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the average."""
        self.averaged.update_parameters(self.student)


class PeersByHand(ByHand):
    """Two students, each taught by the other's logits of the same batch."""

    def __init__(self, student: nn.Module, peer: nn.Module) -> None:
        super().__init__(student)
        self.peer = peer

    def loss(self, batch: Batch, labels: Tensor) -> Tensor:
        """Return the sum of both students' losses."""
        both = [self.student(**batch).logits, self.peer(**batch).logits]
        hard = sum(F.cross_entropy(logits, labels) for logits in both)
        return hard + self.soft(both[0], both[1].detach()) + self.soft(both[1], both[0].detach())


class LayersByHand(ByHand):
    """Every layer runs with a probability; others run in its place, or none."""

    def __init__(self, student: nn.Module, teacher: nn.Module, replaced: Sequence[Callable[..., Any]]) -> None:
        super().__init__(student, teacher)
        self.replaced = list(replaced)

    def loss(self, batch: Batch, labels: Tensor) -> Tensor:
        """Return the loss with other layers in the places of some."""
        drawn = torch.rand(len(self.replaced)) < RATE
        layers = self.student.bert.encoder.layer
        with ExitStack() as stack:
            for layer, other, runs in zip(layers, self.replaced, drawn.tolist(), strict=True):
                if not runs:
                    stack.enter_context(forward_is(layer, other))
            return super().loss(batch, labels)


@contextmanager
def forward_is(layer: nn.Module, other: Callable[..., Any]) -> Iterator[None]:
    """Let a layer do something else."""
    layer.forward = other
    try:
        yield
    finally:
        del layer.forward


def chained(first: nn.Module, second: nn.Module) -> Callable[..., Any]:
    """Return two layers, one after the other."""
    return lambda hidden, *args, **kwargs: second(first(hidden, *args, **kwargs), *args, **kwargs)


def objective(weights: kd.sample_weights.SampleWeight | None = None) -> kd.Objective:
    """Return labels and soft targets."""
    logits, soft = kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=2.0)
    hard = kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())
    return kd.Objective({"hard": hard, "logits": kd.Term(logits, soft, sample_weight=weights)})


def contenders(size: str, optimizer: Callable[..., torch.optim.Optimizer] = ADAMW) -> dict[str, LightningModule]:
    """Return every way, ours and by hand, with the same weights to begin with."""
    teacher = make_teacher(size)
    layers = teacher.config.num_hidden_layers
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    student = make_teacher(size, num_hidden_layers=layers // 2, **no_dropout).train()
    peer = copy.deepcopy(student)
    nn.init.normal_(peer.classifier.weight, generator=torch.Generator().manual_seed(2))
    new, rest = partial(copy.deepcopy, student), partial(kd.DistillationModule, optimizer=optimizer)
    frozen = copy.deepcopy(teacher)
    theirs, inherited = frozen.bert.encoder.layer, with_rest_of(frozen, new())
    pairs = [chained(theirs[2 * i], theirs[2 * i + 1]) for i in range(layers // 2)]
    drop, theseus = kd.strategies.LayerDrop(1 - RATE), kd.strategies.Theseus(lambda progress: RATE, train_rest=True)
    made: dict[str, LightningModule] = {
        "soft targets": rest(new(), teacher, objective()),
        "soft targets" + BY_HAND: ByHand(new(), frozen),
        "rows by entropy": rest(new(), teacher, objective(kd.sample_weights.Entropy())),
        "rows by entropy" + BY_HAND: WeightedByHand(new(), frozen),
        "moving average": rest(new(), kd.EMATeacher(DECAY, warmup=False), objective()),
        "moving average" + BY_HAND: AverageByHand(new()),
        "two peers": kd.MutualModule({"a": new(), "b": copy.deepcopy(peer)}, objective(), optimizer),
        "two peers" + BY_HAND: PeersByHand(new(), peer),
        "layers left out": rest(new(), teacher, objective(), strategy=drop),
        "layers left out" + BY_HAND: LayersByHand(new(), frozen, [lambda hidden, *_, **__: hidden] * (layers // 2)),
        "theseus": rest(new(), teacher, objective(), strategy=theseus),
        "theseus" + BY_HAND: LayersByHand(inherited, frozen, pairs),
    }
    for module in made.values():
        if isinstance(module, ByHand):
            module.make_optimizer = optimizer
    return made


def with_rest_of(teacher: Any, student: Any) -> Any:
    """Return a student with its teacher's embeddings, pooler and head."""
    for name in ("bert.embeddings", "bert.pooler", "classifier"):
        student.get_submodule(name).load_state_dict(teacher.get_submodule(name).state_dict())
    return student


def main(typed: Sequence[str] | None = None) -> Row:
    """Measure, print and write."""
    parser = arguments.parser("strategies", __doc__, rounds=6, device=False)
    arguments.add_shape(parser, batch=32, length=32, teacher="minilm-size")
    parser.add_argument("--steps", type=int, default=10, help="steps of each contender in a round (10)")
    given = arguments.parse(parser, typed, teacher="tiny", batch=4, length=6, steps=4, rounds=1)
    batches: Any = make_batches(given.steps, given.batch, given.length, given.teacher, given.padding)
    made, times = contenders(given.teacher), dict[str, list[float]]()
    for number in range(given.rounds):
        for name in turns(list(made), number):
            clock = StepTimes()
            trainer = Trainer(max_steps=given.steps, callbacks=[clock], **QUIET)
            trainer.fit(made[name], DataLoader(batches, batch_size=None))
            times.setdefault(name, []).extend(clock.seconds)
    times = {name: times[name] for name in made}
    tables = {"rows": time_rows(times, plain="soft targets" + BY_HAND), "targets": timed_target_rows(TARGETS, times)}
    return publish("strategies", given, tables, f"Batches of {given.batch} x {given.length} tokens.")


if __name__ == "__main__":
    main()
