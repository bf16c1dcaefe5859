"""Our losses, in float64, against what other people's code returned: value and gradient of every entry.

`references/figures.json` holds what they returned, `references/make.py` says how; none of their code is here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_lightning import losses
from kd_lightning.compat import mdistiller, mmrazor, repdistiller, torchdistill, zoo
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.state import margins
from kd_lightning.functional.maps import same_size
from kd_lightning.losses.base import LossTraits, bind_loss
from kd_lightning.losses.maps import masked_generative
from kd_lightning.losses.maps.review import hierarchical_distance
from kd_lightning.objective.projections import build_projection

from .references.inputs import array

FOLDER = Path(__file__).with_name("references")
FIGURES = {entry["name"]: entry for entry in json.loads((FOLDER / "figures.json").read_text())}

EXACT, NEAR, SINGLE = 1e-9, 1e-5, 1e-6
"""Ours, with all that the reference adds; ours without its small constants; a reference in float32."""

Names = Mapping[str, str]
"""What the names of a reference's parameters begin with, and what ours do."""

Make = Callable[["Entry"], Callable[..., Tensor]]


@dataclass(frozen=True)
class Entry:
    """What a reference was given."""

    name: str

    @property
    def figure(self) -> dict[str, Any]:
        return FIGURES[self.name]

    def side(self, side: str) -> list[Tensor]:
        return [torch.tensor(array(spec)) for spec in self.figure["inputs"][side]]

    def other(self, name: str) -> Tensor:
        return torch.tensor(array(self.figure["inputs"]["others"][name]))

    def parameters(self, names: Names) -> dict[str, Tensor]:
        """Return the parameters but for the teacher's, under our names."""
        found = {}
        for name, spec in self.figure["parameters"].items():
            if name.startswith("teacher."):
                continue
            start = next((start for start in names if name.startswith(start)), None)
            assert start is not None, f"{name} is left out"
            found[names[start] + name.removeprefix(start)] = torch.tensor(array(spec))
        return found

    def infos(self, side: str) -> list[FeatureInfo]:
        specs = self.figure["inputs"][side]
        kinds = {4: "map", 2: "vector"}
        return [FeatureInfo(kinds[len(spec["shape"])], spec["shape"][1]) for spec in specs]  # type: ignore[arg-type]

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the teacher's batch norms."""
        parameters = self.figure["parameters"]
        found = []
        while f"teacher.{len(found)}.weight" in parameters:
            weight, bias = (torch.tensor(array(parameters[f"teacher.{len(found)}.{x}"])) for x in ("weight", "bias"))
            found.append(nn.BatchNorm2d(len(weight)).double())
            found[-1].load_state_dict({"weight": weight, "bias": bias}, strict=False)
        return found


@dataclass(frozen=True)
class Row:
    """One comparison: an entry, our loss, how many times ours the reference's value is, and how near they are."""

    entry: str
    make: Make
    factor: float = 1.0
    near: float = EXACT
    resize: str | None = "avg"

    def __str__(self) -> str:
        return self.entry if self.near == EXACT else f"{self.entry}-{self.near:g}"


def plain(loss: type, **options: Any) -> Make:
    """Make a loss without modules."""
    return lambda entry: loss(**options).double()


def crossed(heads: int) -> Make:
    """Make the divergence of relations a cross entropy, as the reference has it: the teacher's entropy is added."""

    def entropy(teacher: list[Tensor]) -> Tensor:
        cut = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in teacher]
        shares = [(x @ y.mT / x.shape[-1] ** 0.5).softmax(-1) for x in cut for y in cut]
        return torch.stack([torch.special.entr(p).sum(-1).mean() for p in shares]).mean()

    def make(entry: Entry) -> Callable[..., Tensor]:
        loss = losses.CrossRelations(heads)
        return lambda own, target: loss([x[:, None] for x in own], [x[:, None] for x in target]) + entropy(target)

    return make


def trained(
    loss: type, names: Names, change: Callable[[nn.Module, Entry], object] | None = None, **options: Any
) -> Make:
    """Make a loss, bind it to the entry's features, and give it the reference's parameters."""

    def make(entry: Entry) -> nn.Module:
        made = loss(**options)
        norms = entry.norms()
        teacher = entry.infos("teacher")
        if norms:
            teacher = [replace(info, module=norm) for info, norm in zip(teacher, norms, strict=True)]
        bind_loss(made, entry.infos("student"), teacher)
        if change is not None:
            change(made, entry)
        return fill(made.double(), entry.parameters(names))

    return make


def fill(module: nn.Module, parameters: dict[str, Tensor]) -> nn.Module:
    """Set all parameters of a module, to train with; what it has beside is no number of the reference's.

    A bias in front of a batch norm, which the norm takes off again, need not be there.
    """
    parameters = {
        name: value for name, value in parameters.items() if name not in NORMED or name in module.state_dict()
    }
    left = {name for name, _ in module.named_parameters()} - parameters.keys()
    unknown = parameters.keys() - module.state_dict().keys()
    assert not left, f"no numbers for {left}"
    assert not unknown, f"no parameters for {unknown}"
    module.load_state_dict(parameters, strict=False)
    return module.train()


def fitnet(convolution: Callable[[], nn.Module] | None = None) -> Make:
    """Make a mean square behind a projection: one of ours by name, or a convolution that changes sizes."""

    def make(entry: Entry) -> Callable[..., Tensor]:
        given = entry.parameters({"conv_reg.conv.": "0.", "conv_reg.bn.": "1."})
        if convolution is None:
            projection = build_projection("conv_bn_relu", 4, 5)
            given.pop("0.bias")  # a batch norm takes it off again
        else:
            projection = nn.Sequential(convolution(), nn.BatchNorm2d(5), nn.ReLU())
        assert projection is not None
        regressor = fill(projection.double(), given)
        return lambda student, teacher: losses.HiddenMSE()(regressor(student), teacher)

    return make


class Sum(nn.Module):
    """The sum of losses, each with its weight."""

    def __init__(self, *parts: tuple[float, nn.Module]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in parts]
        self.parts = nn.ModuleList(part for _, part in parts)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        values = []
        for part in self.parts:
            given = {"labels": labels} if "labels" in LossTraits.of(part).arguments else {}
            values.append(part(student, labels if isinstance(part, losses.HardLabel) else teacher, **given))
        return sum((w * value for w, value in zip(self.weights, values, strict=True)), torch.zeros(()))


def summed(*parts: tuple[float, type, dict[str, Any]]) -> Make:
    return lambda entry: Sum(*((weight, loss(**options)) for weight, loss, options in parts))


def rows(*names: str, make: Make, **more: Any) -> list[Row]:
    return [Row(name, make, **more) for name in names]


class Unprojected(nn.Module):
    """Stands where a loss has a trained map that the reference does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("nothing", nn.Parameter(torch.zeros(1)))

    def forward(self, x: Tensor) -> Tensor:
        return x


BOTH = ((25.0, losses.RKDDistance, {}), (50.0, losses.RKDAngle, {}))
VARIATIONAL = {"regressor.": "stages.0.mean.", "alpha": "stages.0.spread", "log_scale": "stages.0.spread"}
NORMED = {"stages.0.projector.2.bias"}
"""Biases of references in front of a batch norm."""

BOTTLENECK = {f"{theirs}.": f"stages.0.projector.{k}." for k, theirs in enumerate(("conv1", "conv2", "conv3", "bn"))}
GENERATED = {"align.": "align.", "generation.": "generate."}
REVIEWED = {
    f"abfs.{k}.{theirs}.": f"fusions.{2 - k}.{ours}."
    for k in range(3)
    for theirs, ours in {"conv1": "reduce", "conv2": "expand", "att_conv.0": "gate"}.items()
}


def exact_margins(loss: nn.Module, entry: Entry) -> None:
    """Give a loss the margins in float64."""
    for stage, norm in zip(loss.stages, entry.norms(), strict=True):  # type: ignore[arg-type]
        stage.margins = margins(norm, "").detach()


def given_margins(entry: Entry) -> nn.Module:
    """Return OFD without connector, with the margins of the entry."""
    loss = losses.Overhaul()
    infos = [FeatureInfo("map", 5, module=nn.BatchNorm2d(5))]
    bind_loss(loss, infos, infos)
    stage: Any = loss.stages[0]
    stage.connector, stage.margins = Unprojected(), entry.other("margin").flatten()
    return loss.double()


def transport(entry: Entry) -> nn.Module:
    """Return WKD-L with the costs of the entry, which are those behind the exponential."""
    loss = losses.WKDL(cost=torch.eye(5), temperature=2.0, weight=3.0)
    loss.costs = entry.other("cost")
    return loss


def normal_stages(**options: Any) -> Make:
    """Make WKD-F without its projector."""

    def make(entry: Entry) -> nn.Module:
        loss = losses.WKDF(**options)
        bind_loss(loss, entry.infos("student"), entry.infos("teacher"))
        loss.stages[0].projector = Unprojected()  # type: ignore[assignment]
        return loss.double()

    return make


def orthogonal(entry: Entry) -> Callable[..., Tensor]:
    """Return VkD of the means over patches and pixels, behind the entry's orthonormal map."""
    projector = fill(nn.Linear(4, 6, bias=False).double(), entry.parameters({"projector.": ""}))
    return lambda student, teacher: losses.VkD()(projector(student.mean(1)), teacher.mean((2, 3)))


def masked(entry: Entry, share: float, per: str) -> Callable[..., Tensor]:
    loss = trained(losses.MaskedGenerative, GENERATED, masked=share, per=per)(entry)

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        numbers = entry.other("random")
        kept = numbers if "classification" in entry.name else 1 - numbers  # the others mask what is large
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masked_generative, "uniform", lambda shape, *_: kept.reshape(shape))
            return loss(student, teacher)

    return compare


def hierarchical(entry: Entry) -> Callable[..., Tensor]:
    def compare(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return torch.stack([hierarchical_distance(s, t) for s, t in pairs]).sum()

    return compare


ROWS = [
    # where maps are active, and what channels select
    *rows("at_mdistiller", "at_mdistiller_pooled", "at_repdistiller", make=plain(losses.AttentionTransfer)),
    Row("at_zoo", plain(losses.AttentionTransfer), near=NEAR),
    Row("at_zoo", plain(zoo.AttentionTransfer)),
    Row("at_zoo_p3", plain(losses.AttentionTransfer, power=3.0), near=NEAR),
    Row("at_zoo_p3", plain(zoo.AttentionTransfer, power=3.0)),
    *rows("fitnet_repdistiller", "fitnet_mdistiller", make=fitnet()),
    Row("fitnet_mdistiller_halved", fitnet(lambda: nn.Conv2d(4, 5, 3, stride=2, padding=1)), resize=None),
    Row("fitnet_mdistiller_doubled", fitnet(lambda: nn.ConvTranspose2d(4, 5, 4, stride=2, padding=1)), resize=None),
    *rows("nst_zoo", "nst_mdistiller", "nst_mdistiller_pooled", "nst_repdistiller", make=plain(losses.NSTMMD)),
    *rows("fsp_zoo", "fsp_repdistiller", make=plain(losses.FSP)),
    Row("fsp_torchdistill", plain(torchdistill.FSP), resize="max"),
    *rows("cwd_mmrazor_tau1", make=plain(losses.ChannelWise)),
    *rows("cwd_mmrazor_tau4", "cwd_authors", make=plain(losses.ChannelWise, temperature=4.0)),
    # relations between rows
    *rows("pkt_mdistiller", "pkt_repdistiller", "pkt_torchdistill", make=plain(losses.PKT), near=NEAR),
    *rows("pkt_zoo", "pkt_zoo_twins", make=plain(zoo.PKT)),
    Row("pkt_mdistiller", plain(mdistiller.PKT)),
    Row("pkt_repdistiller", plain(repdistiller.PKT)),
    Row("pkt_torchdistill", plain(torchdistill.PKT)),
    *rows("rkd_distance_zoo", "rkd_distance_mmrazor_plain", make=plain(losses.RKDDistance)),
    *rows("rkd_distance_mdistiller", "rkd_distance_repdistiller", make=plain(losses.RKDDistance)),
    *rows("rkd_distance_torchdistill", make=plain(losses.RKDDistance)),
    Row("rkd_distance_zoo_twins", plain(losses.RKDDistance), near=NEAR),
    *rows("rkd_distance_zoo", "rkd_distance_zoo_twins", make=plain(zoo.RKDDistance)),
    Row("rkd_distance_mmrazor", plain(mmrazor.RKDDistance)),
    Row("rkd_angle_mmrazor", plain(mmrazor.RKDAngle)),
    *rows("rkd_angle_zoo", "rkd_angle_mmrazor_plain", make=plain(losses.RKDAngle)),
    *rows("rkd_angle_mdistiller", "rkd_angle_repdistiller", "rkd_angle_torchdistill", make=plain(losses.RKDAngle)),
    *rows("rkd_both_mdistiller", "rkd_both_repdistiller", "rkd_both_torchdistill", make=summed(*BOTH)),
    *rows("sp_zoo", "sp_mdistiller", "sp_repdistiller", make=plain(losses.SimilarityPreserving)),
    Row("sp_torchdistill", plain(torchdistill.SimilarityPreserving)),
    *rows("cc_zoo", "cc_zoo_twins", make=plain(losses.CorrelationCongruence)),
    Row("cc_repdistiller", plain(repdistiller.CorrelationCongruence, width=None)),
    Row("cc_torchdistill_gaussian", plain(torchdistill.CorrelationCongruence)),
    Row("cc_torchdistill_bilinear", plain(torchdistill.CorrelationCongruence, kernel="bilinear")),
    Row("irg_vertex_zoo", plain(losses.IRG, vertices=1.0, edges=0.0, transformation=0.0), resize=None),
    Row("irg_edge_zoo", plain(losses.IRG, vertices=0.0, edges=1.0, transformation=0.0), resize=None),
    *rows(
        "irg_transformation_zoo",
        "irg_transformation_same_width_zoo",
        make=plain(losses.IRG, vertices=0.0, edges=0.0, transformation=1.0),
        resize=None,
    ),
    Row("irg_all_zoo", plain(losses.IRG), resize=None),
    # losses with trained parts
    Row("vid_zoo", trained(losses.VID, VARIATIONAL, eps=1e-6)),
    *rows("vid_mdistiller", "vid_mdistiller_pooled", "vid_repdistiller", make=trained(losses.VID, VARIATIONAL)),
    Row("afd_zoo", trained(losses.AFD, {"attention.": "stages.0.attention."})),
    Row("ofd_zoo", trained(zoo.Overhaul, {"connector.": "stages.0.connector."})),
    Row(
        "ofd_mdistiller",
        trained(losses.Overhaul, {f"connectors.{k}.": f"stages.{k}.connector." for k in range(2)}, exact_margins),
    ),
    Row("ofd_mmrazor", given_margins, factor=1e-3),
    Row("reviewkd_authors", trained(losses.ReviewKD, REVIEWED), resize=None),
    Row("reviewkd_authors_resized", trained(losses.ReviewKD, REVIEWED), resize=None),
    Row("reviewkd_mdistiller", trained(losses.ReviewKD, REVIEWED), resize=None),
    Row("hcl_authors", hierarchical, resize=None),
    *(
        Row(name, lambda entry, per=per, share=share: masked(entry, share, per))  # type: ignore[misc]
        for name, share, per in (
            ("mgd_authors_detection", 0.65, "pixel"),
            ("mgd_authors_detection_same_width", 0.65, "pixel"),
            ("mgd_authors_classification", 0.4, "channel"),
            ("mgd_mmrazor", 0.65, "pixel"),
            ("mgd_mmrazor_channels", 0.65, "channel"),
        )
    ),
    Row("wkd_features", normal_stages(mean_weight=4.0)),
    *rows("wkd_features_grid", "wkd_features_overlapping", make=normal_stages(mean_weight=2.0, grid=2)),
    Row(
        "wkd_features_bottleneck",
        trained(losses.WKDF, BOTTLENECK, mean_weight=2.0, grid=2, hidden=3),
    ),
    Row("vkd_authors", orthogonal),
    # logits
    *rows("kd_zoo", "kd_mdistiller", make=plain(losses.SoftTarget, temperature=4.0)),
    *rows("dkd_mdistiller", "dkd_mmrazor", make=plain(losses.DKD)),
    *rows("dist_authors", "dist_mmrazor", make=plain(losses.DIST)),
    Row("dist_torchdistill", plain(losses.DIST), near=NEAR),
    Row("dist_torchdistill", plain(torchdistill.DIST)),
    Row("dist_torchdistill_tau4", plain(torchdistill.DIST, beta=2.0, gamma=0.5, temperature=4.0)),
    Row("dist_mmrazor_tau4", plain(losses.DIST, beta=2.0, gamma=0.5, temperature=4.0)),
    Row("dist_torchdistill_tau4", plain(losses.DIST, beta=2.0, gamma=0.5, temperature=4.0), near=NEAR),
    Row("logit_standardized_authors", plain(losses.LogitStandardized)),
    Row("logit_standardized_torchdistill", summed((0.1, losses.HardLabel, {}), (9.0, losses.LogitStandardized, {}))),
    Row("wsld_mmrazor", plain(mmrazor.WSLD, temperature=2.0)),
    Row("wsld_authors", plain(mmrazor.WSLD, temperature=2.0), factor=2.5),
    Row("nkd_authors", plain(losses.NKD)),
    Row("nkd_authors_cifar", plain(losses.NKD, temperature=3.0, gamma=3.5)),
    Row("ttm_authors", plain(losses.TTM)),
    Row("wttm_authors", plain(losses.TTM, weighted=True)),
    Row("wkd_logits", transport, near=NEAR),
    Row("wkd_logits_double", transport, near=NEAR),
    Row("minivit_deit_soft", plain(losses.SoftTarget, temperature=2.0), factor=1 / 5),
    Row("minivit_soft", plain(losses.SoftCrossEntropy)),
    Row("minivit_relations_1", crossed(1)),
    Row("minivit_relations_2", crossed(2)),
    Row("minivit_hidden_relation", plain(losses.CosineRelation), factor=49),
]

MARGINS = ("ofd_margin_mdistiller", "ofd_margin_mmrazor")
ELSEWHERE = {}
"""Entries that no row compares, and why."""


def sized(loss: Any, student: list[Tensor], teacher: list[Tensor], mode: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Bring maps to one size, as a term does."""
    if getattr(loss, "paired", False):
        pairs = [same_size(*pair, mode=mode) for pair in zip(student, teacher, strict=True)]
        return [s for s, _ in pairs], [t for _, t in pairs]
    if any(x.dim() != 4 for x in (*student, *teacher)):
        return student, teacher
    found = same_size(*student, *teacher, mode=mode)
    return found[: len(student)], found[len(student) :]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_value_and_gradient_are_those_of_the_reference(row):
    entry = Entry(row.entry)
    loss = row.make(entry)
    leaves = [x.requires_grad_() for x in entry.side("student")]
    student, teacher = leaves, entry.side("teacher")
    if row.resize is not None:
        student, teacher = sized(loss, student, teacher, row.resize)
    one = len(student) == 1
    labels = entry.figure["inputs"]["labels"]
    asked = isinstance(loss, nn.Module) and "labels" in LossTraits.of(loss).arguments
    given = {} if labels is None or not asked else {"labels": torch.tensor(labels)}
    value = row.factor * loss(student[0] if one else tuple(student), teacher[0] if one else tuple(teacher), **given)
    value.backward()
    near = max(row.near, SINGLE) if entry.figure["dtype"] == "float32" else row.near
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(entry.figure["value"], rel=near, abs=0)
    found = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    wanted = [torch.tensor(x, dtype=torch.float64) for x in entry.figure["gradient"]]
    largest = max(float(x.abs().max()) for x in wanted)
    for own, theirs in zip(found, wanted, strict=True):
        assert float((own - theirs).abs().max()) <= near * largest


@pytest.mark.parametrize("name", MARGINS)
def test_margins_are_those_of_the_reference(name):
    (norm,) = Entry(name).norms()
    np.testing.assert_allclose(margins(norm, "").detach(), FIGURES[name]["output"], rtol=EXACT)


def test_every_entry_is_compared_or_said_why_not():
    compared = {row.entry for row in ROWS} | set(MARGINS)
    assert compared | ELSEWHERE.keys() == FIGURES.keys()
    assert not compared & ELSEWHERE.keys()


def test_ours_is_exactly_the_reference_somewhere():
    """A row that is only near has beside it one of the class that is the reference's."""
    exact = {row.entry for row in ROWS if row.near == EXACT}
    assert {row.entry for row in ROWS} - exact == {"wkd_logits", "wkd_logits_double"}
