from __future__ import annotations

import torch

from kd_lightning.functional.token_relations import self_relation, split_heads


def test_heads_are_put_side_by_side_and_split_anew() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)  # two heads of width 4, three tokens
    anew = split_heads(x, heads=4)
    assert anew.shape == (1, 4, 3, 2)
    token = torch.cat([x[0, 0, 1], x[0, 1, 1]])
    torch.testing.assert_close(anew[0, :, 1].flatten(), token)


def test_splitting_into_the_same_heads_changes_nothing() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(split_heads(x, heads=3), x)


def test_grouped_values_are_compared_with_a_teacher_of_more_heads() -> None:
    student, teacher = torch.randn(2, 1, 5, 8), torch.randn(2, 4, 5, 8)
    assert self_relation(student, teacher).isfinite()
    torch.testing.assert_close(self_relation(student, teacher), self_relation(student, teacher, relation_heads=4))


def test_a_rotation_common_to_all_tokens_is_invisible() -> None:
    x = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    torch.testing.assert_close(self_relation(x @ rotation, x), torch.zeros((), dtype=torch.float64))
