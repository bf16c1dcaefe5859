"""The runs that are killed: one command each, in which everything is small and nothing is left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EVERY = (
    "hydra.run.dir=run", "logger=csv", "callbacks.progress=null", "trainer.log_every_n_steps=1",
    "callbacks.last.every_n_train_steps=3", "trainer.max_epochs=2", "teacher.trainer.max_epochs=2",
    "teacher.precision=null", "data.batch_size=16", "optimizer.lr=3e-3",
)  # fmt: skip
"""What all commands have: checkpoints of every third step, and rows of curves of every step."""

BERT = (
    "teacher=tiny_random", "teacher.architecture.num_hidden_layers=2", "teacher.architecture.hidden_size=32",
    "teacher.architecture.num_attention_heads=2", "teacher.architecture.intermediate_size=32",
)  # fmt: skip

STUDENT = ("student.hidden_size=16", "student.num_hidden_layers=1", "student.intermediate_size=16")
T3 = ("student=t3", "+student.num_hidden_layers=1")
MADE_UP = ("+data.train_size=96", "+data.validation_size=24", *BERT, *STUDENT, "objective.terms.hard.weight=1")
FILMS = ("data=sst2", "data.name=films", *BERT, *T3)


@dataclass(frozen=True)
class Scenario:
    """A command to kill.

    Args:
        name: a column of the table.
        own: what is typed, beside what all scenarios have.
        data: whether it reads files of rows.
        teachers: whether it is given two fine-tuned teachers.
        ranks: how many processes train the students.
        baseline: train the student alone, too.

    """

    name: str
    own: tuple[str, ...]
    data: bool = False
    teachers: bool = False
    ranks: int = 1
    baseline: bool = True

    def typed(self, place: Path) -> list[str]:
        """Return what is typed after `train.py`, of a folder that has `data` and `teachers`."""
        places = [f"data.root={place / 'data'}"] * self.data
        if self.teachers:
            places.append(f"teacher.path={{a: {place / 'teachers' / 'a'}, b: {place / 'teachers' / 'b'}}}")
        return [*self.own, *EVERY, f"baseline={str(self.baseline).lower()}", *places]


SCHEDULES = (
    "+schedule@objective.terms.hard.schedule=linear_growth",
    "+schedule@objective.terms.logits.schedule=linear_decay",
    "+schedule@objective.terms.logits.loss.temperature_schedule=cosine",
)
DROPOUT = ("+teacher.architecture.hidden_dropout_prob=0.1", "+teacher.architecture.attention_probs_dropout_prob=0.1")
OTHER = ("+data@tasks.other=synthetic", "+tasks.other.data.train_size=48", "+tasks.other.data.validation_size=24",
         "tasks.other.data.batch_size=16", "tau=0.5")  # fmt: skip
LABELS = "data.labels=[O,B-PER,I-PER,B-LOC,I-LOC]"
GOLD = ("data.max_length=24", "data.stride=4", "data.max_question_length=8")
RESNETS = ("teacher=resnet20_cifar", "teacher.model.depth=8", "teacher.model.width=1", "student=resnet8",
           "optimizer=sgd", "augment=[crop,flip]", "mix=mixup")  # fmt: skip

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("plain", (*MADE_UP,)),
        Scenario("cache", (*MADE_UP, "cache=true", "match=[hidden_mse]")),
        Scenario("views", (*FILMS, "cache=true", "teacher.cache.views=2", "augment=[mask]"), data=True),
        Scenario("ranks", (*MADE_UP, "trainer=ddp_cpu", "cache=true"), ranks=2),
        Scenario("accumulation", (*MADE_UP, *SCHEDULES, "trainer.accumulate_grad_batches=2")),
        Scenario(
            "dropout", (*FILMS, *DROPOUT, "augment=[mask,delete]", "match=[hidden_mse]", "data.holdout=0.2"), True
        ),
        Scenario("tasks", (*FILMS, *OTHER, *DROPOUT), data=True),
        Scenario("teachers", (*MADE_UP, "cache=true", "teacher.weights=confidence"), teachers=True),
        Scenario("tags", ("data=conll2003", "data.name=people", LABELS, *BERT, *T3), data=True, baseline=False),
        Scenario("questions", ("data=squad", "data.name=gold", *GOLD, *BERT, *T3), data=True, baseline=False),
        Scenario(
            "images",
            (
                "data=cifar10",
                "data.name=noise",
                "data.labels=null",
                "data.splits.validation=validation",
                *RESNETS,
                "cache=true",
                "teacher.cache.views=2",
            ),
            data=True,
        ),
    )
}
