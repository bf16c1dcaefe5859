from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_lightning import losses
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo

from . import oracles
from .cases import MASK

LOSSES = {"hidden": (losses.HiddenMSE(), oracles.hidden_mse), "cosine": (losses.HiddenCosine(), oracles.hidden_cosine)}


def layers(count: int, seed: int, spread: float = 1.0) -> tuple[Tensor, ...]:
    """Return hidden states (4, 4, 8) of layers each of which changes the one before a little."""
    generator = torch.Generator().manual_seed(seed)
    steps = spread * torch.randn(count, 4, 4, 8, generator=generator, dtype=torch.float64)
    return tuple(steps.cumsum(0))


def costs(student, teacher, pair, mask=None):
    mask = None if mask is None else mask.bool().numpy()
    return np.array([[pair(s.numpy(), t.numpy(), mask) for t in teacher] for s in student])


def cost_attention(flow, cost, weights, temperature):
    """2020.emnlp-main.242, section 3: w_i = softmax_i((Σ_k C_k / C_i) / τ), C_i = Σ_j f_ij d_ij / w_i."""
    unit = (flow * cost).sum(1) / weights
    raised = np.exp(unit.sum() / unit / temperature)
    return raised / raised.sum()


@pytest.mark.parametrize("name", LOSSES)
def test_three_steps_of_values_flows_and_weights_are_the_papers(name):
    loss, pair = LOSSES[name]
    emd = losses.EMD(loss, 3, 5, temperature=2.0).double()
    w_s, w_t = np.full(3, 1 / 3), np.full(5, 1 / 5)
    for step in range(3):
        student, teacher = layers(3, seed=step), layers(5, seed=10 + step)
        cost = costs(student, teacher, pair, MASK)
        flow, least = oracles.transport(cost, w_s, w_t)
        assert emd(student, teacher, MASK).item() == pytest.approx(least, rel=1e-5)
        np.testing.assert_allclose(emd.flow.numpy(), flow, atol=1e-6)
        w_s, w_t = cost_attention(flow, cost, w_s, 2.0), cost_attention(flow.T, cost.T, w_t, 2.0)
        np.testing.assert_allclose(emd.student_weights.numpy(), w_s, rtol=1e-5)
        np.testing.assert_allclose(emd.teacher_weights.numpy(), w_t, rtol=1e-5)
    assert np.ptp(w_s) > 0.01, "the weights have moved"


def test_identical_layers_are_matched_one_to_one():
    """Neighbours are close, and still every layer finds itself, whatever the order."""
    teacher = layers(6, seed=0, spread=0.05)
    order = [3, 0, 5, 1, 4, 2]
    emd = losses.EMD(losses.HiddenMSE(), 6, 6)
    assert emd([teacher[i] for i in order], teacher) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(emd.flow, torch.eye(6)[order] / 6)


def test_in_eval_mode_and_without_a_temperature_weights_stay():
    student, teacher = layers(2, 0), layers(3, 1)
    for emd in (losses.EMD(losses.HiddenMSE(), 2, 3).eval(), losses.EMD(losses.HiddenMSE(), 2, 3, temperature=None)):
        before = {name: value.clone() for name, value in emd.state_dict().items()}
        emd(student, teacher)
        assert all(torch.equal(before[name], value) for name, value in emd.state_dict().items())


def test_weights_are_in_the_state_and_a_run_goes_on_bit_equal():
    batches = [(layers(2, seed), layers(3, seed + 50)) for seed in range(6)]

    def run(emd, some):
        return [emd(*batch).item() for batch in some]

    whole = losses.EMD(losses.HiddenMSE(), 2, 3)
    expected = run(whole, batches)
    first, second = (losses.EMD(losses.HiddenMSE(), 2, 3) for _ in range(2))
    start = run(first, batches[:3])
    second.load_state_dict(first.state_dict())
    assert sorted(first.state_dict()) == ["student_weights", "teacher_weights"]
    assert start + run(second, batches[3:]) == expected
    assert torch.equal(second.student_weights, whole.student_weights)


def test_the_gradient_is_the_flow_times_that_of_each_pair_and_none_reaches_the_teacher():
    student = [x.clone().requires_grad_() for x in layers(2, 0)]
    teacher = [x.clone().requires_grad_() for x in layers(3, 1)]
    emd = losses.EMD(losses.HiddenMSE(), 2, 3)
    emd(student, teacher).backward()
    assert all(t.grad is None for t in teacher)
    for i, s in enumerate(student):
        expected = sum(float(emd.flow[i, j]) * 2 * (s - t) / s.numel() for j, t in enumerate(teacher))
        torch.testing.assert_close(s.grad, expected.detach(), rtol=1e-5, atol=1e-9)


def test_padding_changes_neither_value_nor_weights():
    student, teacher = layers(2, 0), layers(3, 1)
    dirty = [tuple(x.masked_fill(~MASK.bool()[..., None], float("nan")) for x in side) for side in (student, teacher)]
    one, other = (losses.EMD(losses.HiddenMSE(), 2, 3) for _ in range(2))
    assert one(student, teacher, MASK) == other(*dirty, MASK)
    assert torch.equal(one.student_weights, other.student_weights)


def test_an_empty_mask_leaves_the_weights_and_gives_a_differentiable_zero():
    emd = losses.EMD(losses.HiddenMSE(), 2, 3)
    emd(layers(2, 0), layers(3, 1))
    learned = emd.student_weights.clone()
    student = [x.clone().requires_grad_() for x in layers(2, 0)]
    value = emd(student, layers(3, 1), torch.zeros(4, 4))
    value.backward()
    assert value == 0
    assert all((s.grad == 0).all() for s in student)
    assert torch.equal(emd.student_weights, learned)


def test_one_layer_alone_and_a_loss_that_knows_no_mask():
    (student,), teacher = layers(1, 0), layers(2, 1)
    expected = sum(nn.functional.mse_loss(student, t) for t in teacher) / 2
    torch.testing.assert_close(losses.EMD(nn.MSELoss(), 1, 2)(student, teacher, MASK), expected)
    assert losses.EMD(nn.MSELoss(), 1, 2).count(student, teacher, MASK) is None


INFO = FeatureInfo("tokens", 8)


def test_binding_takes_the_numbers_of_layers_from_the_match_and_starts_uniform():
    emd = losses.EMD(losses.HiddenMSE(), temperature=2.0)
    emd.bind((INFO,) * 4, (INFO,) * 2)
    assert (emd.temperature, emd.student_layers, emd.teacher_layers) == (2.0, 4, 2)
    assert sorted(emd.state_dict()) == ["student_weights", "teacher_weights"]
    emd(layers(4, 0), layers(2, 1))
    assert not torch.equal(emd.student_weights, torch.full((4,), 0.25))
    emd.bind((INFO,) * 4, (INFO,) * 2)
    assert torch.equal(emd.student_weights, torch.full((4,), 0.25))


def test_binding_reaches_the_inner_loss_with_one_layer_of_each():
    class Bound(losses.DistillationLoss):
        def bind(self, student, teacher):
            self.infos = student, teacher

        def forward(self, student, teacher):
            return student.sum()

    emd = losses.EMD(Bound())
    emd.bind((INFO,) * 4, (INFO,) * 2)
    assert emd.loss.infos == ((INFO,), (INFO,))


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ConfigError, match=r"student_layers=2, teacher_layers=3.*bound to two models"):
        losses.EMD(losses.HiddenMSE())(layers(2, 0), layers(3, 1))
    with pytest.raises(MatchError, match="made for 2 student and 3 teacher layers but got 2 and 2"):
        losses.EMD(losses.HiddenMSE(), 2, 3).bind((INFO,) * 2, (INFO,) * 2)
    with pytest.raises(MatchError, match="made for 2 student and 3 teacher layers but got 2 and 2"):
        losses.EMD(losses.HiddenMSE(), 2, 3)(layers(2, 0), layers(2, 1))
    with pytest.raises(ConfigError, match="`temperature` to be positive"):
        losses.EMD(losses.HiddenMSE(), temperature=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_step_never_waits_for_the_device_and_finds_the_same():
    student, teacher = layers(3, 0), layers(5, 1)
    here, there = (losses.EMD(losses.HiddenMSE(), 3, 5) for _ in range(2))
    there.cuda()
    moved = [tuple(x.cuda() for x in side) for side in (student, teacher)]
    mask = MASK.cuda()
    there(*moved, mask)  # the first call loads kernels
    there.load_state_dict(here.state_dict())
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = there(*moved, mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(value.cpu(), here(student, teacher, MASK))
    torch.testing.assert_close(there.teacher_weights.cpu(), here.teacher_weights)
