from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kd_lightning as kd
from kd_lightning.core.errors import DataError
from kd_lightning.models.inspection.class_distances import cka_distances


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019: HSIC of two centred Gram matrices over the root of both with themselves."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, m = (centring @ (a @ a.T) @ centring for a in (x, y))
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def test_distances_are_one_less_the_alignment_of_gram_matrices():
    features = torch.randn(3, 7, 4, dtype=torch.float64)
    expected = [[1 - cka(a, b) for b in features.numpy()] for a in features.numpy()]
    np.testing.assert_allclose(cka_distances(features).numpy(), expected, atol=1e-12)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 5, 3), nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.conv(pixel_values)).mean((2, 3)))


def test_classes_are_read_from_batches_and_their_distances_are_costs_of_a_loss():
    model, labels = Net(), torch.tensor([0, 1, 2, 1, 0, 2, 0])
    images = torch.randn(7, 3, 6, 6)
    batches = [{"pixel_values": images[i : i + 3], "labels": labels[i : i + 3]} for i in (0, 3, 6)]
    found = kd.inspection.class_distances(model, batches, "conv", num_labels=3)
    with torch.no_grad():
        maps = model.conv(images)
    rows = [maps[labels == k].permute(0, 2, 3, 1).reshape(-1, 5)[: 2 * 16] for k in range(3)]
    torch.testing.assert_close(found, cka_distances(torch.stack(rows)))
    assert model.drop.training
    loss = kd.losses.WKDL(cost=found)
    assert loss(torch.randn(2, 3), torch.randn(2, 3), labels=torch.tensor([0, 2])).isfinite()


def test_a_class_without_samples_is_named():
    batch = {"pixel_values": torch.randn(2, 3, 6, 6), "labels": torch.tensor([0, 2])}
    with pytest.raises(DataError, match="no sample of class 1"):
        kd.inspection.class_distances(Net(), [batch], "conv", num_labels=3)
