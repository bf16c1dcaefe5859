from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kd_lightning as kd
from kd_lightning.teachers.cache.columns import Codec, TopK

from .making import build, cached, in_batches, live, token_rows


def restored(logits: torch.Tensor, k: int) -> torch.Tensor:
    top = TopK(k, logits.shape[-1])
    return top.unpack(top.pack(logits))


@given(st.integers(0, 1000), st.integers(1, 8), st.sampled_from([(5,), (2, 3)]), st.sampled_from([0.1, 1.0, 20.0]))
def test_kept_probabilities_and_the_mass_of_the_rest_are_exact(seed, k, rows, spread):
    logits = spread * torch.randn(*rows, 10, generator=torch.Generator().manual_seed(seed))
    exact = logits.double().softmax(-1)
    found = restored(logits, k).double().softmax(-1)
    kept = exact.topk(k, -1).indices
    torch.testing.assert_close(found.gather(-1, kept), exact.gather(-1, kept), atol=1e-6, rtol=1e-5)
    rest = torch.ones_like(exact).scatter(-1, kept, 0.0)
    torch.testing.assert_close((found * rest).sum(-1), (exact * rest).sum(-1), atol=1e-6, rtol=1e-5)


def test_a_student_is_pulled_exactly_on_what_was_kept():
    """The gradient of cross-entropy at temperature 1 is q - p: exact on kept classes, and in sum over the others."""
    generator = torch.Generator().manual_seed(0)
    teacher, start = (torch.randn(4, 9, generator=generator) for _ in range(2))
    gradients = []
    for target in (teacher, restored(teacher, 3)):
        student = start.clone().requires_grad_()
        kd.losses.SoftTarget(temperature=1.0)(student, target).backward()
        gradients.append(student.grad)
    kept = teacher.topk(3, -1).indices
    rest = torch.ones_like(teacher).scatter(-1, kept, 0.0)
    torch.testing.assert_close(gradients[0].gather(1, kept), gradients[1].gather(1, kept), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close((gradients[0] * rest).sum(1), (gradients[1] * rest).sum(1), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(gradients[0], gradients[1])


@pytest.mark.parametrize(
    "row",
    [
        [1e4, -1e4, 0.0, 0.0, 0.0],
        [1e4] * 5,
        [-1e4] * 5,
        [0.0] * 5,
        [float("-inf")] * 4 + [1.0],
        [1.0, 1.0, float("-inf"), float("-inf"), float("-inf")],
        [3.0, 3.0, 3.0, 1.0, 1.0],
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_extreme_logits_give_no_nan(row, k):
    logits = torch.tensor([row])
    probabilities = restored(logits, k).softmax(-1)
    assert probabilities.isfinite().all()
    assert probabilities.sum() == pytest.approx(1)
    best = logits.softmax(-1).topk(k, -1)
    torch.testing.assert_close(probabilities.topk(k, -1).values, best.values)


def test_only_logits_over_classes_are_cut():
    names = ("logits", "a/logits", "prediction_logits", "end_logits", "hidden.1", "score")
    codec = Codec(top_k=2, kinds={"score": "classes"})
    codec.pack({name: torch.rand(2, 9) for name in names}, None, 2)
    assert list(codec.cut) == ["logits", "a/logits", "prediction_logits", "score"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("k", [1, 2, 3, 9, 10, 50])
def test_on_disk(tmp_path, dtype, k):
    from ...toys import bert

    batches = in_batches(token_rows(), 4)
    build(bert(labels=10), batches, tmp_path / "c", ["logits"], dtype, top_k=k)
    near = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 1e-2}[dtype]
    for batch in batches:
        found = cached(tmp_path / "c", ["logits"])(batch)["logits"].float()
        exact = live(bert(labels=10), ["logits"])(batch)["logits"]
        assert found.shape == exact.shape
        kept = exact.topk(min(k, 10), -1).indices
        one, other = found.softmax(-1).gather(1, kept), exact.softmax(-1).gather(1, kept)
        torch.testing.assert_close(one, other, atol=near, rtol=near)
        if k >= 9:
            torch.testing.assert_close(found, exact, atol=near, rtol=near)


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(30, 7)

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.words(input_ids)}


def test_per_token_and_scalar_logits(tmp_path):
    batches = in_batches(token_rows(), 4)
    build(Tagger(), batches, tmp_path / "c", ["logits"], top_k=2)
    batch = in_batches(token_rows(), 12)[0]
    found, exact = cached(tmp_path / "c", ["logits"])(batch)["logits"], Tagger()(batch["input_ids"])["logits"]
    kept = exact.topk(2, -1).indices
    real = batch["attention_mask"].bool()
    one, other = found.softmax(-1).gather(2, kept), exact.softmax(-1).gather(2, kept)
    torch.testing.assert_close(one[real], other[real])

    score = kd.Adapter(outputs=lambda out: {"logits": out["logits"].mean((1, 2))})  # (B,): a row has one number
    build(kd.LiveTeacher(Tagger(), adapter=score), batches, tmp_path / "d", ["logits"], top_k=1)
    expected = torch.cat([Tagger()(batch["input_ids"])["logits"].mean((1, 2)) for batch in batches])
    assert torch.equal(torch.cat([cached(tmp_path / "d", ["logits"])(batch)["logits"] for batch in batches]), expected)
