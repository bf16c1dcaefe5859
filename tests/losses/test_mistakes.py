"""Mistakes with losses that have modules, need classes, or ask for the teacher's weights: one clear sentence each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kd_lightning as kd
from kd_lightning import losses
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import FeatureInfo, RowInfo
from kd_lightning.losses.base import LossTraits, WrappedLoss
from kd_lightning.objective.projections import OrthogonalLinear

NAN = float("nan")
Z, Y = torch.randn(2, 4), torch.tensor([0, 3])


def network(width: float, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kd.models.cifar_resnet(8, width=width)


def images() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.tensor([1, 0])}


def test_a_loss_in_two_terms_has_modules_for_each():
    shared = losses.VID()
    terms = {f"vid_{k}": kd.Term(kd.Match(f"stages.{k}", f"stages.{k}"), shared) for k in (1, 3)}
    made = kd.DistillationModule(network(0.25), network(0.5), kd.Objective(terms))
    assert made.compare(images()).total.isfinite()
    first, second = (term.loss for term in made.objective.named_terms().values())
    assert first is shared
    assert first.stages[0].spread.shape != second.stages[0].spread.shape


def test_a_term_in_two_objectives_is_bound_for_each():
    term = kd.Term(kd.Match("stages.3", "stages.3"), losses.VID())
    one, other = (kd.DistillationModule(network(w), network(0.5), kd.Objective({"vid": term})) for w in (0.25, 0.5))
    assert one.compare(images()).total.isfinite()
    assert other.compare(images()).total.isfinite()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_an_orthogonal_projection_stays_in_float32(precision: torch.dtype):
    layer = OrthogonalLinear(3, 5).to(precision)
    assert layer.weight.dtype is torch.float32
    torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(3))
    assert OrthogonalLinear(3, 5).double().weight.dtype is torch.float64


def stages(loss: losses.DistillationLoss, width: int = 4) -> losses.DistillationLoss:
    info = FeatureInfo("map", width, address="norm", module=nn.BatchNorm2d(width))
    loss.bind((info,), (info,))
    return loss


@pytest.mark.parametrize("loss", [losses.VID, losses.AFD, losses.Overhaul, losses.WKDF, losses.MaskedGenerative])
@pytest.mark.parametrize("teacher", [(2, 1, 6, 6), (1, 4, 6, 6), (2, 4, 1, 1), (2, 5, 6, 6), (2, 4)], ids=str)
def test_maps_of_other_shapes_are_not_broadcast(loss: type, teacher: tuple[int, ...]):
    with pytest.raises(MatchError, match=loss.__name__):
        stages(loss())(torch.randn(2, 4, 6, 6), torch.randn(teacher))


def test_more_stages_than_a_loss_was_bound_to():
    x = torch.randn(2, 4, 6, 6)
    with pytest.raises(MatchError, match="bound to 1 stages and got 2"):
        stages(losses.VID())((x, x), (x,))
    with pytest.raises(MatchError, match="has no modules yet"):
        losses.VID()(x, x)


def test_irg_is_given_its_four_features_in_order():
    wrong = [FeatureInfo("map", 4, address=f"stages.{k}") for k in (1, 2, 3)] + [FeatureInfo("classes", 10)]
    with pytest.raises(MatchError, match=r"in this order, and the student's 'stages\.3' is of kind 'map'"):
        losses.IRG().bind(tuple(wrong), tuple(wrong))
    maps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2), torch.randn(2, 4)
    with pytest.raises(MatchError, match="logits of one shape"):
        losses.IRG()((*maps, torch.randn(2, 10)), (*maps, torch.randn(2, 1)))


LABELLED = [losses.DKD(), losses.NKD(), losses.WSLD(), losses.WKDL(cost=1 - torch.eye(4))]


@pytest.mark.parametrize("loss", LABELLED, ids=str)
def test_a_label_that_is_no_class_is_named(loss: losses.DistillationLoss):
    with pytest.raises(MatchError, match=rf"{type(loss).__name__} got the label 4 in row 1"):
        loss(Z, Z, labels=torch.tensor([0, 4]))
    assert loss(Z, Z, labels=Y.to(torch.int8)) == loss(Z, Z, labels=Y)
    assert LossTraits.of(loss).needs_classes


@pytest.mark.parametrize(
    "make",
    [
        lambda: losses.DKD(alpha=NAN),
        lambda: losses.DKD(beta=-1),
        lambda: losses.DKD(temperature="4"),
        lambda: losses.NKD(gamma=NAN),
        lambda: losses.DIST(beta=NAN),
        lambda: losses.DIST(gather="false"),
        lambda: losses.PKT(gather="false"),
        lambda: losses.WKDL(weight=NAN),
        lambda: losses.WKDL(iterations="10"),
        lambda: losses.WKDL(schedule=0.5),
        lambda: losses.WKDL(cost=torch.full((3, 3), NAN)),
        lambda: losses.WKDL(cost=-torch.ones(3, 3)),
        lambda: losses.WKDF(grid=2.5),
        lambda: losses.WKDF(mean_weight=NAN),
        lambda: losses.IRG(edges=NAN),
        lambda: losses.VkD(eps=-1),
        lambda: losses.AFD(reduction=float("inf")),
        lambda: losses.MaskedGenerative(masked="0.5"),
        lambda: losses.CorrelationCongruence(order=0),
        lambda: losses.CrossRelations(relation_heads=0),
    ],
)
def test_options_without_a_meaning_are_refused(make):
    with pytest.raises(ConfigError, match="Expected"):
        make()


def test_rows_need_a_label_each():
    with pytest.raises(MatchError, match="RowInfo needs ids"):
        RowInfo(torch.arange(3), torch.arange(2))
    with pytest.raises(MatchError, match="RowInfo needs ids"):
        RowInfo([1, 2])


class Half(WrappedLoss):
    def forward(self, student, teacher, **given):
        return self.compare(student, teacher, **given) / 2


def test_a_wrapped_loss_shows_and_keeps_what_the_inner_one_does():
    half = Half(losses.AFD())
    stages(half)(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3))
    assert list(half.diagnostics) == ["entropy_1"]
    traits = LossTraits.of(Half(losses.Overhaul()))
    assert traits.teacher_state == ("margins",)
    assert LossTraits.of(Half(losses.PKT())).gather
    assert LossTraits.of(Half(losses.DKD())).needs_classes


def test_classes_or_vectors_have_no_tokens_to_relate():
    info = (FeatureInfo("classes", 10),)
    with pytest.raises(MatchError, match="address tokens, or a map"):
        losses.CosineRelation().bind(info, info)


@pytest.mark.parametrize("loss", [losses.AttentionTransfer, losses.NSTMMD, losses.SimilarityPreserving, losses.VID])
def test_a_batch_without_rows_counts_for_nothing(loss: type):
    objective = kd.Objective({"own": kd.Term(kd.Match("stages.3", "stages.3"), loss())})
    made = kd.DistillationModule(network(0.25), network(0.25, seed=1), objective)
    features = {"stages.3": torch.zeros(0, 16, 4, 4, requires_grad=True)}
    report = made.objective(features, {"stages.3": torch.zeros(0, 16, 4, 4)}, images())
    report.total.backward()
    assert report.total == 0
