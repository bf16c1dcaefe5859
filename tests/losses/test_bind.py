"""What a loss may ask for when it is bound: rows, modules and state of the teacher; and a seed for each step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

import kd_lightning as kd
from kd_lightning.core.errors import CacheError, MatchError
from kd_lightning.core.types import FeatureInfo, RowInfo
from kd_lightning.features.state import teacher_state
from kd_lightning.functional.noise import uniform
from tests.toys import mlp

ROWS = RowInfo(torch.tensor([7, 9, 12]), torch.tensor([0, 2, 1]))
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "enable_checkpointing": False,
}


class Remembering(kd.losses.DistillationLoss):
    """Has a vector for each row."""

    def bind(self, student: tuple[FeatureInfo, ...], teacher: tuple[FeatureInfo, ...], rows: RowInfo | None = None):
        assert rows is not None
        self.ids = rows.ids
        self.memory = nn.Parameter(torch.zeros(len(rows), student[0].width or 0))

    def forward(self, student: Tensor, teacher: Tensor, sample_id: Tensor | None = None) -> Tensor:
        return (student - self.memory[torch.searchsorted(self.ids, sample_id)]).square().mean()


class Random(kd.losses.DistillationLoss):
    """Notes its seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def forward(self, student: Tensor, teacher: Tensor, seed: int = 0) -> Tensor:
        self.seeds.append(seed)
        return student.sum()


def module(loss: nn.Module, **options: Any) -> kd.DistillationModule:
    objective = kd.Objective({"own": kd.Term(kd.Match("0", "0"), loss)})
    return kd.DistillationModule(mlp(5), mlp(5, seed=1), objective, **options)


@pytest.mark.parametrize("rows", [ROWS, lambda: ROWS], ids=["rows", "function"])
def test_a_loss_that_asks_for_the_training_rows_gets_them(rows):
    made = module(Remembering(), rows=rows)
    batch = {"input": torch.randn(2, 4), "sample_id": torch.tensor([12, 7])}
    made.compare(batch).total.backward()
    memory = made.objective.named_terms()["own"].loss.memory
    assert memory.shape == (3, 5)
    assert memory.grad.abs().sum(1).ne(0).tolist() == [True, False, True]
    assert any("memory" in name for name in made.state_dict())


def test_rows_that_nobody_gave_are_an_error_that_says_where_to_give_them():
    with pytest.raises(MatchError, match=r"rows=RowInfo\(ids, labels\)"):
        module(Remembering())


def test_a_function_of_rows_is_called_for_losses_that_ask_alone():
    def never() -> RowInfo:
        raise AssertionError

    module(nn.MSELoss(), rows=never)


def seeds(seed: int, **options: Any) -> list[int]:
    loss = Random()
    loader = torch.utils.data.DataLoader([{"input": torch.randn(2, 4)} for _ in range(3)], batch_size=None)
    seed_everything(seed, verbose=False)
    made = module(loss)
    Trainer(max_epochs=2, **QUIET, **options).fit(made, loader)
    return made.objective.named_terms()["own"].loss.seeds


def test_each_step_has_a_seed_of_its_own_that_the_runs_seed_decides():
    first = seeds(3)
    assert len(set(first)) == 6
    assert first == seeds(3)
    assert not set(first) & set(seeds(4))


def test_random_numbers_of_a_row_do_not_depend_on_its_batch():
    ids = torch.tensor([5, 3, 8])
    whole = uniform((3, 2, 2), seed=11, rows=ids)
    for place, row in enumerate(ids):
        assert torch.equal(uniform((1, 2, 2), seed=11, rows=row[None])[0], whole[place])
    assert not torch.equal(uniform((3, 2, 2), seed=12, rows=ids), whole)


def test_random_numbers_are_uniform_and_unrelated():
    drawn = uniform((2000, 50), seed=1).double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 5000).square() / 5000).sum() < 45  # χ² with 19 degrees of freedom, below 0.1 %
    table = torch.stack([drawn[:-1, 0], drawn[1:, 0], drawn[:-1, 1]])
    assert (torch.corrcoef(table) - torch.eye(3)).abs().max() < 0.08


def test_margins_are_the_mean_of_the_negative_part_of_a_normal_variable():
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 5.0, 1.0]))
    found = teacher_state(FeatureInfo("map", 4, module=norm), "margins")
    drawn = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0)) * norm.weight[:2] + norm.bias[:2]
    expected = [column[column < 0].mean() for column in drawn.detach().T]
    torch.testing.assert_close(found[:2], torch.stack(expected), rtol=0.01, atol=0)
    assert found[2:].tolist() == pytest.approx([-1.5, 0.0], abs=1e-6)  # hardly ever negative: −3 |γ|


def test_what_is_no_norm_has_no_margins():
    with pytest.raises(MatchError, match="needs the batch norm whose output 'conv' is"):
        teacher_state(FeatureInfo("map", 4, address="conv", module=nn.Conv2d(3, 4, 1)), "margins")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(pixel_values)).relu().mean((2, 3)))


def overhaul(teacher: Any) -> kd.DistillationModule:
    objective = kd.Objective({"ofd": kd.Term(kd.Match("norm", "norm"), kd.losses.Overhaul())})
    return kd.DistillationModule(Net(), teacher, objective)


def test_a_cache_keeps_the_state_that_a_term_asks_for_and_says_so_where_it_does_not(tmp_path: Path):
    batches = [{"pixel_values": torch.randn(2, 3, 8, 8), "sample_id": torch.tensor([0, 1])}]
    live = overhaul(teacher := Net())
    assert live.objective.teacher_state == {"norm": ("margins",)}
    quiet = Trainer(**QUIET)
    kd.TeacherCache.build(teacher, batches, tmp_path / "bare", ["norm"], dtype="fp32", trainer=quiet)
    with pytest.raises(MatchError, match=r"'margins' of the teacher's weights, for which 'norm'.*built with this term"):
        overhaul(kd.CachedTeacher(tmp_path / "bare"))
    state = live.objective.teacher_state
    made = kd.TeacherCache.build(
        teacher, batches, tmp_path / "whole", ["norm"], dtype="fp32", trainer=quiet, state=state
    )
    cached = overhaul(kd.CachedTeacher(tmp_path / "whole"))
    stages = [m.objective.named_terms()["ofd"].loss.stages[0] for m in (live, cached)]
    assert torch.equal(stages[0].margins, stages[1].margins)
    plain = kd.TeacherCache.fingerprint_of(teacher, ["norm"], dtype="fp32")
    kd.CachedTeacher(tmp_path / "whole", expect=plain)  # more than is asked for is fine
    with pytest.raises(CacheError, match="teacher_state"):
        kd.CachedTeacher(tmp_path / "bare", expect=made.fingerprint)


def test_a_copy_of_a_bound_objective_does_not_copy_the_teacher():
    teacher = Net()
    objective = overhaul(teacher).objective
    assert not any(module is teacher.norm for module in objective.modules())
    copied = copy.deepcopy(objective)
    assert all(info.module is None for info in copied.named_terms()["ofd"]._teacher.values())


def test_what_a_loss_shows_of_itself_is_logged_with_its_terms():
    objective = kd.Objective({"afd": kd.Term(kd.Match("norm", "norm"), kd.losses.AFD())})
    made = kd.DistillationModule(Net(), Net(), objective)
    report = made.compare({"pixel_values": torch.randn(2, 3, 8, 8)})
    logs = report.logs("train")
    assert 0 < logs["train/afd/entropy_1"] <= torch.tensor(4.0).log() + 1e-6
    assert "train/afd/entropy_1" not in report.logs("train", parts=False)


@pytest.mark.parametrize("loss", [kd.losses.ReviewKD, kd.losses.WKDF])
def test_a_last_batch_of_one_row_does_not_end_a_training(loss):
    made = loss()
    made.bind((FeatureInfo("map", 4), FeatureInfo("vector", 4)), (FeatureInfo("map", 4), FeatureInfo("vector", 4)))
    one = torch.randn(1, 4, 4, 4, requires_grad=True), torch.randn(1, 4)
    value = made(one, (torch.randn(1, 4, 4, 4), torch.randn(1, 4)))
    value.backward()
    assert value.isfinite()
    assert one[0].grad.isfinite().all()
