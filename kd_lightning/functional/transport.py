"""Optimal transport between two small sets of layers: an exact linear programme that never waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

PIVOTS = 3
"""Steps of the simplex method per layer of both sides; random costs of 24 × 48 layers need 2.6 from the start below."""

NUDGE = 1e-9
"""What is added to the supplies so that no partial sums agree: a tie could stall the simplex method."""

FLOOR = 1e-6
"""The smallest weight a layer can have, so that none is lost for good."""


def optimal_flow(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the cheapest way to move the rows' weights to the columns: argmin_F Σ F_ij D_ij, the earth mover's flow.

    The simplex method of the transportation problem on a dense tableau: all entries are 0 or ±1, so nothing drifts. The
    number of steps is fixed, and after each the flow is one that moves all weights; no step waits for the device.

    Args:
        cost: D, (S, T), not negative; detached, and solved in float64.
        rows: (S,), positive, summing to one.
        columns: (T,), likewise.

    Returns:
        F, (S, T): not negative, with rows that sum to `rows` and columns that sum to `columns`.

    Example:
        >>> half = torch.tensor([0.5, 0.5])
        >>> optimal_flow(torch.tensor([[0.0, 1.0], [1.0, 3.0]]), half, half)
        tensor([[0.0000, 0.5000],
                [0.5000, 0.0000]])

    """
    exact = [_exact(x) for x in (cost, rows, columns)]
    tableau, basis = _start(*exact)
    for _ in range(PIVOTS * sum(cost.shape)):
        tableau, basis = _pivot(tableau, basis)
    flow = tableau.new_zeros(cost.numel()).scatter(0, basis, tableau[:-1, -1].clamp(min=0))
    return flow.reshape(cost.shape).to(cost)


def cost_attention(flow: Tensor, cost: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the next weights of the layers that are the rows: those that are cheap to match count more.

    The cost attention of BERT-EMD (Li et al. 2020, 2020.emnlp-main.242, section 3): with C_i = Σ_j F_ij D_ij / w_i
    what a unit of layer i's weight costs, w_i ← softmax_i((Σ_k C_k / C_i) / τ). Its authors' code has this form too,
    and another in which the softmax is a plain normalisation. Where nothing costs anything, weights stay.

    Args:
        flow: F, (S, T).
        cost: D, (S, T).
        weights: w, (S,). For the columns' weights give both matrices transposed.
        temperature: τ; the higher, the more alike the weights.

    Example:
        >>> half, flow, cost = torch.tensor([0.5, 0.5]), torch.eye(2) / 2, torch.tensor([[1.0, 9.0], [9.0, 3.0]])
        >>> cost_attention(flow, cost, half)
        tensor([0.9350, 0.0650])

    """
    unit = (_exact(flow) * _exact(cost)).sum(1) / _exact(weights)
    total = unit.sum()
    ratio = total / torch.maximum(unit, FLOOR * total).clamp(min=torch.finfo(unit.dtype).tiny)
    learned = (ratio / temperature).softmax(0).clamp(min=FLOOR)
    return torch.where(total > 0, learned / learned.sum(), _exact(weights)).to(weights)


def _exact(x: Tensor) -> Tensor:
    """Return `x` in float64, which Apple's devices do not have."""
    return x.detach().to("cpu" if x.device.type == "mps" else x.device, torch.float64)


def _start(cost: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tableau and the cells of its basis: layers matched in their order, the north-west corner rule.

    The tableau has a line per cell of the basis, then one of reduced costs; a column per cell, then nudged and true
    amounts.
    """
    (s, t), device = cost.shape, cost.device
    nudged = rows + NUDGE, torch.cat([columns[:-1], columns[-1:] + s * NUDGE])
    cuts = torch.cat([side.cumsum(0)[:-1] for side in nudged]).argsort(stable=True)
    down = torch.cat([cuts.new_zeros(1), (cuts < s - 1).long()]).cumsum(0)
    basis = down * t + torch.arange(s + t - 1, device=device) - down
    cells = torch.arange(s * t, device=device)
    sums = torch.cat([cells // t == torch.arange(s, device=device)[:, None],
                      cells % t == torch.arange(t, device=device)[:, None]]).to(cost)  # fmt: skip
    amounts = torch.stack([torch.cat(nudged), torch.cat([rows, columns])], 1)
    system = torch.cat([sums, amounts], 1)[:-1]  # the last sum follows from the others
    lines = torch.linalg.solve_ex(system.index_select(1, basis), system)[0]
    prices = torch.cat([cost.flatten() / cost.max().clamp(min=torch.finfo(cost.dtype).tiny), cost.new_zeros(2)])
    return torch.cat([lines, (prices - prices[basis] @ lines)[None]]), basis


def _pivot(tableau: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Let the cell that saves most enter the basis, for the first that runs empty; where none saves, do nothing."""
    saving, entering = tableau[-1, :-2].min(0, keepdim=True)
    column = tableau.index_select(1, entering).squeeze(1)
    leaving = torch.where(column[:-1] > 0.5, tableau[:-1, -2], torch.inf).argmin(keepdim=True)
    go = saving < -1e-12
    step = column.index_add(0, leaving, -torch.ones_like(saving)) * go
    tableau = tableau - step[:, None] * tableau.index_select(0, leaving)
    return tableau, torch.where(go, basis.index_copy(0, leaving, entering), basis)
