from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_lightning.functional.transport import cost_attention, optimal_flow

from ..losses.oracles import transport

KINDS = ("uniform", "lognormal", "ordered", "walk")


def costs(kind: str, s: int, t: int, random: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return random.random((s, t))
    if kind == "lognormal":
        return np.exp(2 * random.normal(size=(s, t)))
    if kind == "ordered":
        return np.abs(np.arange(s)[:, None] / s - np.arange(t) / t)
    walks = [random.normal(size=(n, 8)).cumsum(0) for n in (s, t)]
    return np.square(walks[0][:, None] - walks[1]).mean(-1)


def weights(n: int, spread: float, random: np.random.Generator) -> np.ndarray:
    raw = np.exp(spread * random.normal(size=n))
    return raw / raw.sum()


def flow_of(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return optimal_flow(*map(torch.tensor, (cost, rows, columns))).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_the_flow_costs_what_a_linear_programme_finds(kind, spread):
    random = np.random.default_rng(7)
    for _ in range(12):
        s, t = random.integers(1, 13), random.integers(1, 25)
        cost, rows, columns = costs(kind, s, t, random), weights(s, spread, random), weights(t, spread, random)
        flow, (_, least) = flow_of(cost, rows, columns), transport(cost, rows, columns)
        assert (flow * cost).sum() == pytest.approx(least, rel=1e-6)
        assert (flow >= 0).all()
        np.testing.assert_allclose(flow.sum(1), rows, atol=1e-8)
        np.testing.assert_allclose(flow.sum(0), columns, atol=1e-8)


@pytest.mark.parametrize(("s", "t"), [(6, 12), (12, 24), (24, 24)])
def test_ties_everywhere_do_not_stall_it(s, t):
    """Equal weights make every partial sum agree with others, and costs of few values make many flows equal."""
    random = np.random.default_rng(s)
    for _ in range(5):
        cost = random.integers(0, 4, (s, t)).astype(float)
        rows, columns = np.full(s, 1 / s), np.full(t, 1 / t)
        assert (flow_of(cost, rows, columns) * cost).sum() == pytest.approx(transport(cost, rows, columns)[1], abs=1e-7)


def test_costs_of_any_size_and_none_at_all():
    half = np.array([0.5, 0.5])
    for scale in (1e-20, 1e20):
        np.testing.assert_allclose(
            flow_of(scale * np.array([[2.0, 1.0], [1.0, 3.0]]), half, half), [[0, 0.5], [0.5, 0]]
        )
    np.testing.assert_allclose(flow_of(np.zeros((2, 2)), half, half).sum(1), half)
    np.testing.assert_allclose(flow_of(np.array([[3.0]]), np.ones(1), np.ones(1)), [[1.0]])


def test_a_permutation_is_found():
    order = np.random.default_rng(0).permutation(12)
    cost = np.abs(order[:, None] - np.arange(12)).astype(float)
    np.testing.assert_allclose(
        flow_of(cost, np.full(12, 1 / 12), np.full(12, 1 / 12)), np.eye(12)[order] / 12, atol=1e-8
    )


def attention(flow, cost, weights, temperature):
    """2020.emnlp-main.242, section 3: C_i = Σ_j f_ij d_ij / w_i, then w_i = softmax_i((Σ_k C_k / C_i) / τ)."""
    unit = [sum(flow[i][j] * cost[i][j] for j in range(len(cost[i]))) / weights[i] for i in range(len(cost))]
    raised = [np.exp(sum(unit) / one / temperature) for one in unit]
    return [one / sum(raised) for one in raised]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_weights_follow_the_paper(temperature):
    random = np.random.default_rng(3)
    cost, rows, columns = 1 + random.random((4, 6)), weights(4, 0.5, random), weights(6, 0.5, random)
    flow = flow_of(cost, rows, columns)
    for f, d, w in ((flow, cost, rows), (flow.T, cost.T, columns)):
        ours = cost_attention(*map(torch.tensor, (f.copy(), d.copy(), w)), temperature).numpy()
        np.testing.assert_allclose(ours, attention(f, d, w, temperature), rtol=1e-9)
        unit = (f * d).sum(1) / w
        assert np.argmin(unit) == np.argmax(ours), "the cheapest layer gets most"


def test_no_layer_is_lost_where_one_costs_nothing_and_weights_stay_where_none_costs_anything():
    half, flow = torch.tensor([0.5, 0.5]), torch.eye(2) / 2
    free = cost_attention(flow, torch.tensor([[0.0, 1.0], [1.0, 2.0]]), half)
    assert free[0] > 0.99
    assert free[1] > 0
    uneven = torch.tensor([0.3, 0.7])
    assert torch.equal(cost_attention(flow, torch.zeros(2, 2), uneven), uneven)
