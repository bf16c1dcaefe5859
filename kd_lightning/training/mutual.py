"""Several students that teach each other: mutual learning, and codistillation by earlier copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from kd_lightning.core.adapter import Adapter
from kd_lightning.core.arguments import check_model
from kd_lightning.core.batch import batch_size, sub_batch
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import Batch, Features, LossReport, Rows
from kd_lightning.objective import Objective
from kd_lightning.teachers import DelayedTeacher, EnsembleTeacher, SelfTeacher, TeacherSource
from kd_lightning.training.checks import check_finite, check_not_shared, check_objective
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.optim import OptimizerFactory, SchedulerFactory
from kd_lightning.training.peer_objective import peer_objective
from kd_lightning.training.progress import terms_are_logged
from kd_lightning.training.resuming import survive_kills
from kd_lightning.training.several import SeveralModules, check_name, own_modules


class MutualModule(SeveralModules):
    """Trains K students that teach each other: L_k = hard_k + 1/(K − 1) Σ_{l≠k} KL(p_l ‖ p_k), peers detached.

    Deep mutual learning, Zhang et al. 2018 (1706.00384): for each batch all students run first, then each has its
    objective, and one step moves them all. (The paper updates one after the other.) With `every` a peer teaches as it
    was up to so many steps ago: codistillation, Anil et al. 2018 (1804.03235), usually with a schedule that leaves the
    peers out at first, `schedules.BurnIn`.

    In the objective a teacher's address stands for each of the other students in turn: a term becomes one per peer,
    `NAME_PEER`, with an equal part of its weight.

    Logged are for each student `train/PEER/loss/TERM` and the like and `val/PEER/METRIC`, beside them `train/loss`, the
    sum, and `val/METRIC`, the mean.

    Args:
        students: by name (letters, digits, underscores), at least two; they may differ in everything but the batch.
        objective: what each is trained for.
        optimizer: as of `DistillationModule`, over all students; clipping by norm is for each student by itself.
        scheduler: as of `DistillationModule`.
        metrics: metrics by name for validation, of each student.
        adapter: how to call students that do not follow the usual forms.
        rows: as of `DistillationModule`.
        every: optimizer steps between two copies of a peer; None: peers teach as they are.

    Raises:
        ConfigError: for fewer than two students, names that cannot be, students that share weights, or an objective
            without a teacher's address.

    Example:
        >>> import kd_lightning as kd
        >>> objective = Objective(
        ...     {
        ...         "hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel()),
        ...         "soft": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget()),
        ...     }
        ... )
        >>> module = MutualModule({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)}, objective)
        >>> list(module.peer("a").objective.named_terms())
        ['hard', 'soft_b']

    """

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        objective: Objective,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        metrics: MetricCollection | Mapping[str, Metric] | None = None,
        adapter: Adapter | None = None,
        rows: Rows | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler)
        _check_students(students)
        check_objective(objective)
        teachers = {name: _peers(name, students, adapter, every) for name in students}
        self.peers = nn.ModuleDict()
        for name, student in students.items():
            own = peer_objective(objective, [other for other in students if other != name])
            options: dict[str, Any] = {"metrics": copy.deepcopy(metrics), "adapter": adapter, "rows": rows}
            self.peers[name] = DistillationModule(student, teachers[name], own, **options)
        self._ask()

    def peer(self, name: str) -> DistillationModule:
        """Return the module of one student."""
        found = self.peers[name]
        assert isinstance(found, DistillationModule)
        return found

    @property
    def members(self) -> dict[str, DistillationModule]:
        """The students' modules by name, in order."""
        return own_modules(self.peers)

    @property
    def students(self) -> dict[str, nn.Module]:
        """The students by name."""
        return {name: peer.student for name, peer in self.members.items()}

    def _ask(self) -> None:
        """Let each student collect what the others ask of it as well."""
        for name, peer in self.members.items():
            others = [other.teacher for key, other in self.members.items() if key != name]
            asked = [member.addresses for t in others if isinstance(member := _member(t, name), SelfTeacher)]
            peer._runner.ask(list(dict.fromkeys([*peer._runner.addresses, *(a for own in asked for a in own)])))

    # -- one batch ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Run all students, then compare each with its peers."""
        reports = self.compare(batch, across_ranks=True)
        for name, report in reports.items():
            peer = self.peer(name)
            check_finite(report, self.trainer, batch, None if _sees(peer.teacher) else peer.teacher)
        total = torch.stack([report.total for report in reports.values()]).sum()
        logs = {"train/loss": total.detach()}
        for name, report in reports.items():
            logs |= report.logs(f"train/{name}", terms_are_logged(self.trainer))
        self.log_dict(logs, batch_size=batch_size(sub_batch(batch, "student")))
        return total

    def compare(self, batch: Batch, across_ranks: bool = False) -> dict[str, LossReport]:
        """Evaluate every student's objective on one batch, all of them on the students as they are now."""
        peers = self.members
        features = {name: peer.forward(batch) for name, peer in peers.items()}
        reports = {}
        for name, peer in peers.items():
            assert isinstance(peer.teacher, EnsembleTeacher)
            for other, member in peer.teacher.teachers.items():
                if member.sees_features:
                    member.see(features[other])
            given: Any = (peer.progress, across_ranks, peer.seed)
            reports[name] = peer.objective(features[name], peer.teacher(batch), batch, *given)
        return reports

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Features | None:
        """Update every student's metrics."""
        for name, peer in self.members.items():
            if peer.metrics is None:
                peer._val_loss.update(self.compare(batch)[name].total, batch_size(sub_batch(batch, "student")))
            else:
                peer.metrics.update(peer.forward(batch), batch)
        return None

    def scores(self) -> dict[str, Tensor]:
        """Return `METRIC`, the mean over students, and `PEER/METRIC`, over all batches since the last call."""
        own = {name: peer.scores() for name, peer in self.members.items()}
        first = next(iter(own.values()))
        mean = {metric: torch.stack([scores[metric] for scores in own.values()]).mean() for metric in first}
        return mean | {f"{name}/{metric}": value for name, scores in own.items() for metric, value in scores.items()}

    # -- the run -----------------------------------------------------------------------------------------------

    @property
    def main_metric(self) -> str:
        """The first metric."""
        return next(iter(self.members.values())).main_metric

    def setup(self, stage: str) -> None:
        """Set up every student."""
        super().setup(stage)
        self._ask()

    def on_train_start(self) -> None:
        """Prepare to be killed more than once, and let copies begin as the students do."""
        survive_kills(self.trainer)
        self._each_copy(lambda member, student: member.begin(student))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let copies follow the students: before callbacks save a checkpoint of this step."""
        super().optimizer_step(*args, **kwargs)
        self._each_copy(lambda member, student: member.after_step(student))

    def _each_copy(self, do: Any) -> None:
        for peer in self.members.values():
            assert isinstance(peer.teacher, EnsembleTeacher)
            for other, member in peer.teacher.teachers.items():
                do(member, self.peer(other).student)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each student's gradients by themselves: one optimizer is then as good as one for each."""
        if not gradient_clip_val:
            return
        for peer in self.members.values():
            owned = [p for p in (*peer.student.parameters(), *peer.objective.parameters()) if p.grad is not None]
            if gradient_clip_algorithm == "value":
                nn.utils.clip_grad_value_(owned, gradient_clip_val)
            else:
                nn.utils.clip_grad_norm_(owned, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the copies."""
        copies = {f"{name}/{other}": member.state_dict() for name, other, member in self._copies()}
        if copies:
            checkpoint["kd_teacher"] = copies

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the copies."""
        for name, other, member in self._copies():
            member.load_state_dict(checkpoint["kd_teacher"][f"{name}/{other}"])

    def _copies(self) -> list[tuple[str, str, DelayedTeacher]]:
        found = [
            (name, other, member)
            for name, peer in self.members.items()
            if isinstance(peer.teacher, EnsembleTeacher)
            for other, member in peer.teacher.teachers.items()
        ]
        return [(name, other, member) for name, other, member in found if isinstance(member, DelayedTeacher)]


def _peers(name: str, students: Mapping[str, nn.Module], adapter: Adapter | None, every: int | None) -> EnsembleTeacher:
    make = partial(DelayedTeacher, every, adapter) if every is not None else SelfTeacher
    members: dict[str, TeacherSource] = {}
    for other, student in students.items():
        if other != name:
            members[other] = make()
            members[other].attach(student)
    return EnsembleTeacher(members)


def _member(teacher: TeacherSource | None, name: str) -> TeacherSource | None:
    return teacher.teachers.get(name) if isinstance(teacher, EnsembleTeacher) else None


def _sees(teacher: TeacherSource | None) -> bool:
    return isinstance(teacher, EnsembleTeacher) and any(t.sees_features for t in teacher.teachers.values())


def _check_students(students: Mapping[str, nn.Module]) -> None:
    if not isinstance(students, Mapping) or len(students) < 2:
        raise ConfigError("Mutual learning needs at least two students by name, such as {'a': …, 'b': …}.")
    for name in students:
        check_name(name, "A student", "a")
        check_model(name, students[name])
    names = list(students)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            check_not_shared(students[name], students[other])
