"""What the formulas promise for any input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_lightning import losses

from .cases import CASES, LossCase

seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 5)
classes = st.integers(2, 5)
temperatures = st.floats(0.5, 10)
anything = settings(deadline=None, max_examples=25)


def draw(seed: int, *shapes: tuple[int, ...], scale: float = 3.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def draw_mask(seed: int, batch: int, length: int) -> Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.6


def close(a: Tensor, b: Tensor | float) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-8, atol=1e-10)


@given(seeds, sizes, sizes, classes, temperatures)
@anything
def test_kl_of_a_distribution_with_itself_is_zero(seed: int, b: int, n: int, c: int, t: float) -> None:
    (z,) = draw(seed, (b, n, c))
    for loss in (losses.SoftTarget(t), losses.SoftLabels(t)):
        close(loss(z, z, draw_mask(seed, b, n)), 0.0)


@given(seeds, sizes, sizes, classes, temperatures)
@anything
def test_kl_is_never_negative(seed: int, b: int, n: int, c: int, t: float) -> None:
    student, teacher = draw(seed, (b, n, c), (b, n, c))
    for loss in (losses.SoftTarget(t), losses.SoftLabels(t)):
        assert loss(student, teacher, draw_mask(seed, b, n)) >= -1e-10


@given(seeds, sizes, sizes, classes, temperatures, st.floats(-50, 50))
@anything
def test_a_constant_added_to_all_logits_changes_nothing(
    seed: int, b: int, n: int, c: int, t: float, shift: float
) -> None:
    student, teacher = draw(seed, (b, n, c), (b, n, c))
    mask = draw_mask(seed, b, n)
    for loss in (losses.SoftTarget(t), losses.SoftCrossEntropy(t, scaled=False)):
        close(loss(student + shift, teacher, mask), loss(student, teacher, mask))
        close(loss(student, teacher - shift, mask), loss(student, teacher, mask))
    labels = torch.randint(0, c, (b, n), generator=torch.Generator().manual_seed(seed))
    close(losses.HardLabel()(student + shift, labels, mask), losses.HardLabel()(student, labels, mask))


@given(seeds, sizes, sizes, classes, temperatures)
@anything
def test_cross_entropy_less_the_teacher_s_entropy_is_kl(seed: int, b: int, n: int, c: int, t: float) -> None:
    student, teacher = draw(seed, (b, n, c), (b, n, c))
    p = torch.softmax(teacher / t, -1)
    entropy = torch.distributions.Categorical(probs=p).entropy().mean()
    ce = losses.SoftCrossEntropy(t, scaled=False)(student, teacher)
    close(t**2 * (ce - entropy), losses.SoftTarget(t)(student, teacher))


@given(seeds, sizes, classes, temperatures)
@anything
def test_masked_positions_are_as_if_they_were_cut_off(seed: int, b: int, n: int, t: float) -> None:
    student, teacher = draw(seed, (b, n), (b, n))
    padded = [torch.cat([z, torch.full((b, 2), 1e4, dtype=z.dtype)], 1) for z in (student, teacher)]
    mask = torch.arange(n + 2).expand(b, -1) < n
    labels = torch.randint(0, n, (b,), generator=torch.Generator().manual_seed(seed))
    close(losses.SoftTarget(t)(*padded, mask), losses.SoftTarget(t)(student, teacher))
    close(losses.HardLabel(0.1)(padded[0], labels, mask), losses.HardLabel(0.1)(student, labels))


@given(seeds, st.floats(0.01, 100))
@anything
def test_cosine_ignores_positive_scaling_and_pkd_too(seed: int, scale: float) -> None:
    student, teacher = draw(seed, (2, 3, 4), (2, 3, 4))
    mask = draw_mask(seed, 2, 3)
    for loss in (losses.HiddenCosine(), losses.PKD()):
        close(loss(scale * student, teacher, mask), loss(student, teacher, mask))
        close(loss(scale * teacher, teacher, mask), 0.0)


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "identity"], ids=str)
@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_permuting_the_batch_changes_nothing(case: LossCase, seed: int) -> None:
    sample = case.sample(seed).double()
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    close(sample.slice(order).apply(case.build().double()), sample.apply(case.build().double()))


SAME_SHAPE: list[tuple[torch.nn.Module, Callable[[int], Any]]] = [
    (losses.LogitMSE(), lambda seed: draw(seed, (2, 3))[0]),
    (losses.HiddenMSE(), lambda seed: draw(seed, (2, 3, 4))[0]),
    (losses.FSP(), lambda seed: tuple(draw(seed, (2, 3, 4), (2, 3, 5)))),
    (losses.NST(), lambda seed: tuple(draw(seed, (2, 3, 4), (2, 3, 4)))),
    (losses.AttentionMSE(), lambda seed: draw(seed, (2, 2, 3, 3))[0]),
    (losses.AttentionMSEMean(), lambda seed: draw(seed, (2, 2, 3, 3))[0]),
    (losses.AttentionMSESum(), lambda seed: draw(seed, (2, 2, 3, 3))[0]),
    (losses.AttentionKL(), lambda seed: draw(seed, (2, 2, 3, 3))[0].softmax(-1)),
    (losses.AttentionKL(inputs="scores"), lambda seed: draw(seed, (2, 2, 3, 3))[0]),
    (losses.SelfRelation(), lambda seed: draw(seed, (2, 2, 3, 4))[0]),
]


@pytest.mark.parametrize(("loss", "tensors"), SAME_SHAPE, ids=[repr(loss) for loss, _ in SAME_SHAPE])
@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_a_perfect_student_has_no_loss_and_any_other_has_some(
    loss: torch.nn.Module, tensors: Callable[[int], Any], seed: int
) -> None:
    close(loss(tensors(seed), tensors(seed)), 0.0)
    assert loss(tensors(seed), tensors(seed + 1)) > 1e-6


@given(seeds, sizes)
@anything
def test_attention_scores_and_their_probabilities_agree(seed: int, length: int) -> None:
    student, teacher = draw(seed, (2, 2, length, length), (2, 2, length, length))
    for loss in (losses.AttentionCE, losses.AttentionCEMean, losses.AttentionKL):
        close(loss(inputs="scores")(student, teacher), loss()(student.softmax(-1), teacher.softmax(-1)))


@given(seeds, st.sampled_from([1, 2, 3, 6]))
@anything
def test_self_relation_sees_only_the_widths_not_the_heads(seed: int, relation_heads: int) -> None:
    student, teacher = draw(seed, (2, 3, 4, 4), (2, 2, 4, 3))
    as_one_head = student.transpose(1, 2).reshape(2, 4, 12).unsqueeze(1)
    loss = losses.SelfRelation(relation_heads)
    close(loss(as_one_head, teacher), loss(student, teacher))
