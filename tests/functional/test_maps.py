"""Feature maps: sizes, tokens of patches, and the losses on them, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning import losses
from kd_lightning.core.errors import MatchError
from kd_lightning.functional.maps import same_size, tokens_to_map

SIZE = {"avg": torch.mean, "max": torch.amax}


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", SIZE)
def test_a_map_becomes_as_small_as_the_smallest_window_by_window(mode: Any) -> None:
    small, large = maps(2, 3, 2, 4), maps(2, 5, 6, 8, seed=1)
    kept, pooled = same_size(small, large, mode=mode)
    assert kept is small
    for row in range(2):
        for column in range(4):
            window = large[:, :, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            torch.testing.assert_close(pooled[:, :, row, column], SIZE[mode](window, (2, 3)))


def test_maps_that_are_wider_and_higher_than_each_other_meet_at_the_smaller_of_each() -> None:
    assert [x.shape[2:] for x in same_size(maps(1, 1, 2, 8), maps(1, 1, 6, 4))] == [(2, 4)] * 2


def test_half_precision_is_pooled_in_float32() -> None:
    large = maps(1, 2, 8, 8).bfloat16()
    torch.testing.assert_close(same_size(maps(1, 2, 2, 2), large)[1], F.adaptive_avg_pool2d(large.float(), 2))


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("size", "like"), [((8, 8), (4, 4)), ((8, 16), (2, 4)), ((12, 4), (9, 3))])
def test_tokens_of_patches_become_the_map_that_they_were_made_from(prefix: int, size: Any, like: Any) -> None:
    patches = nn.Conv2d(3, 6, 4, 4)(maps(2, 3, *size))
    tokens = torch.cat([maps(2, prefix, 6), patches.flatten(2).mT], dim=1)
    torch.testing.assert_close(tokens_to_map(tokens, *like), patches)


@pytest.mark.parametrize(("length", "like"), [(201, (7, 7)), (7, (2, 4)), (8, (3, 3)), (1, (1, 4))])
def test_tokens_that_are_no_patches_of_such_an_image_are_refused(length: int, like: Any) -> None:
    with pytest.raises(MatchError, match=rf"^{length} tokens .* {like[0]}×{like[1]}.*Address a module"):
        tokens_to_map(maps(1, length, 2), *like)


def test_mse_of_maps_and_its_gradient_are_pytorchs() -> None:
    student, other = (maps(3, 4, 5, 6).double().requires_grad_() for _ in range(2))
    teacher = maps(3, 4, 5, 6, seed=1).double()
    loss = losses.HiddenMSE()
    loss(student, teacher).backward()
    F.mse_loss(other, teacher).backward()
    torch.testing.assert_close(loss(student, teacher), F.mse_loss(student, teacher))
    torch.testing.assert_close(student.grad, other.grad)


def test_cosine_of_maps_is_that_of_channels_pixel_by_pixel() -> None:
    student, teacher = maps(3, 4, 5, 6), maps(3, 4, 5, 6, seed=1)
    expected = 1 - F.cosine_similarity(student, teacher, dim=1).mean()
    torch.testing.assert_close(losses.HiddenCosine()(student, teacher), expected)


def flow(first: Tensor, second: Tensor) -> Tensor:
    """FSP matrix of Yim et al. 2017, equation 1: pixel by pixel."""
    height, width = first.shape[2:]
    places = [(i, j) for i in range(height) for j in range(width)]
    return sum(first[:, :, i, j, None] * second[:, None, :, i, j] for i, j in places) / (height * width)


def test_fsp_of_maps_is_the_papers_over_pixels() -> None:
    student, teacher = ((maps(2, 3, 4, 5, seed=k).requires_grad_(k < 2), maps(2, 6, 4, 5, seed=k + 1)) for k in (0, 2))
    loss = losses.FSP()(student, teacher)
    expected = F.mse_loss(flow(*student), flow(*teacher).detach())
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, student[0])[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_nst_of_maps_compares_every_pixel_with_every_other() -> None:
    student, teacher = ([maps(2, c, 2, 3, seed=k) for k in range(c, c + 2)] for c in (3, 5))
    grams = [torch.einsum("bchw,bcij->bhwij", *pair) / pair[0].shape[1] for pair in (student, teacher)]
    torch.testing.assert_close(losses.NST()(student, teacher), F.mse_loss(*grams))


@pytest.mark.parametrize("name", ["HiddenMSE", "HiddenCosine", "FSP", "NST"])
@pytest.mark.parametrize("at", [1, 3])
def test_parts_of_a_batch_weighed_by_their_counts_are_the_whole(name: str, at: int) -> None:
    loss = getattr(losses, name)()
    sides = [maps(4, 3, 4, 4, seed=k) for k in range(2)]
    sides = [(side, side) for side in sides] if name in ("FSP", "NST") else sides
    cut = lambda part: [tuple(x[part] for x in s) if isinstance(s, tuple) else s[part] for s in sides]  # noqa: E731
    parts = [cut(slice(None, at)), cut(slice(at, None))]
    counts = [loss.count(*part) for part in parts]
    mean = sum(loss(*part) * n for part, n in zip(parts, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(mean, loss(*sides))


PAIR = (torch.zeros(2, 3, 4, 4),) * 2
WRONG: list[tuple[Any, Any, Any, str]] = [
    (losses.HiddenMSE(), PAIR[0], torch.zeros(2, 5, 4, 4), r"channels differ, add projection='conv'"),
    (losses.HiddenMSE(), PAIR[0], torch.zeros(2, 3, 2, 2), r"brings maps to one size"),
    (losses.HiddenMSE(), PAIR[0], torch.zeros(2, 16, 3), r"brings tokens to a map"),
    (losses.HiddenMSE(), PAIR, PAIR, r"HiddenMSE compares one feature with one.*MatchScheme"),
    (losses.PKD(), PAIR, PAIR, r"PKD compares one feature with one.*MatchScheme"),
    (losses.AttentionMSE(), PAIR, PAIR, r"one feature with one.*MatchScheme"),
    (losses.SelfRelation(), PAIR, PAIR, r"one feature with one.*MatchScheme"),
    (losses.PKD(), PAIR[0], PAIR[0], r"PKD compares first tokens.*use HiddenCosine"),
    (losses.FSP(), (PAIR[0], torch.zeros(2, 3, 2, 2)), PAIR, r"same batch and height and width"),
    (losses.FSP(), PAIR, (torch.zeros(2, 5, 4, 4),) * 2, r"FSP.*projection='conv'"),
    (losses.FSP(), PAIR, (torch.zeros(2, 16, 3),) * 2, r"FSP.*brings tokens to a map"),
    (losses.FSP(), (torch.zeros(2, 3),) * 2, (torch.zeros(2, 3),) * 2, r"\(B, L, D\) or maps \(B, C, H, W\)"),
    (losses.NST(), (PAIR[0], torch.zeros(2, 5, 4, 4)), PAIR, r"the same channels"),
    (losses.NST(), PAIR, (torch.zeros(2, 3, 2, 2),) * 2, r"NST.*same batch"),
]


@pytest.mark.parametrize(("loss", "student", "teacher", "sentence"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_compared_is_an_error_with_advice(loss: Any, student: Any, teacher: Any, sentence: str) -> None:
    with pytest.raises(MatchError, match=sentence):
        loss(student, teacher)
