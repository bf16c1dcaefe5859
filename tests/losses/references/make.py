"""Run other people's losses and write down what they return: `figures.json`, which our tests compare ours with.

    python tests/losses/references/make.py --sources DIR [--only NAME ...]

None of their code is here. DIR holds it, one folder per repository, each file at its place in that repository:

| folder below DIR | version | files |
|---|---|---|
| Corner430/Knowledge-Distillation-Zoo | b8892f64586e62e3883dea185e854cb05079bb1b (st.py: 5a7a5b30) | kd_losses/*.py |
| megvii-research/mdistiller | e8c5bb331e78c9d79a8894ca233caae78531cf7f | mdistiller/distillers/*.py |
| HobbitLong/RepDistiller | 1e2f81692647991a80a1e97ffa14e2af915eaa6f | distiller_zoo/*.py, models/util.py |
| yoshitomo-matsubara/torchdistill | release 1.1.5 (the wheel, unpacked) | torchdistill/losses/mid_level.py |
| open-mmlab/mmrazor | release 1.0.0 (the wheel, unpacked) | mmrazor/models/**/*.py |
| hunto/DIST_KD | 6d93ca01e2cd78e011730dcaf63d9bfa3e187fa3 | segmentation/losses/dist_kd.py |
| sunshangquan/logit-standardization-KD | 6083e2de122da0bffe6ff6e1fb25a6a80f6c3464 | mdistiller/distillers/KD.py |
| bellymonster/Weighted-Soft-Label-Distillation | 4ecf930e7da4bf450c4f3436cf53f90d34767137 | knowledge_distiller.py |
| yzd-v/cls_KD | ad4876fa4c5c70db5d11b892278c4090086ce935 | mmcls/distillation/losses/nkd.py |
| zkxufo/TTM | 2de9060d32b85221c00d864d47b8f68016491d86 | distiller_zoo/{ttm,wttm}.py |
| dvlab-research/ReviewKD | 6607308a444e0b53650639f6b040515b3d665e05 | CIFAR-100/model/reviewkd.py |
| irfanICMLL/TorchDistiller | c2caaca0942b615d2362fa0c9468ed1db292a2f0 | SemSeg-distill/utils/criterion.py |
| yzd-v/MGD | 046aba2dc2b067bc3e75ceb8f5e006e922937232 | {cls/mmcls,det/mmdet}/distillation/losses/mgd.py |
| hanna6666/wassterin_dill | ff03a5dbadba4260a21f2adf8efb5c6000a89ec5 | mdistiller/distillers/{WKD,_common}.py |
| roymiles/VkD | 0c9cc5eb7dec9c771350b74b01e9ff6f26bf4c2c | engine.py |
| microsoft/Cream | ced6c2671bd1a37cf7b3acd8a24a86a50d3473a8 | MiniViT/Mini-DeiT/losses.py, MiniViT/Mini-Swin/main.py |

Knowledge-Distillation-Zoo is AberHu's; what was read is this copy of it, formatted with black. wassterin_dill holds a
copy of JiamingLv/WKD, the authors' repository of WKD-L and WKD-F.

A file that DIR lacks is no error: its entries are skipped with a line that names the file, and what `figures.json` held
for them stays. A file without the expected class or function is one: it is another version.

How it is run. Of a file only the classes and functions that an entry names are executed, with torch, numpy and small
stand-ins for what they were imported with (registries, base classes), so no other package is needed. Everything is
float64, also what a reference makes itself, unless the entry says otherwise. Modules are in train mode (BatchNorm takes
the batch's statistics); all their parameters and buffers are set to the numbers in the entry. A gradient is that of the
value with respect to each student tensor. Weights are 1 unless `arguments` has them. `inputs.array` turns an entry's
descriptions into arrays; labels are as they stand. An entry without a loss has `output` for value and gradient.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import json
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from inputs import array
from scipy.stats import norm
from torch import Tensor, nn

FIGURES = Path(__file__).with_name("figures.json")


class Source(NamedTuple):
    """A repository and the version of it that was read."""

    repository: str
    commit: str
    folder: str = ""


ZOO = Source("Corner430/Knowledge-Distillation-Zoo", "b8892f64586e62e3883dea185e854cb05079bb1b", "kd_losses")
ZOO_ST = ZOO._replace(commit="5a7a5b30a29793fe99df1b74d4e9ec27b6ee82d0")
MDISTILLER = Source("megvii-research/mdistiller", "e8c5bb331e78c9d79a8894ca233caae78531cf7f", "mdistiller/distillers")
REPDISTILLER = Source("HobbitLong/RepDistiller", "1e2f81692647991a80a1e97ffa14e2af915eaa6f", "distiller_zoo")
TORCHDISTILL = Source("yoshitomo-matsubara/torchdistill", "release 1.1.5", "torchdistill/losses")
MMRAZOR = Source("open-mmlab/mmrazor", "release 1.0.0", "mmrazor/models")
DIST = Source("hunto/DIST_KD", "6d93ca01e2cd78e011730dcaf63d9bfa3e187fa3", "segmentation/losses")
LOGIT_STD = Source(
    "sunshangquan/logit-standardization-KD", "6083e2de122da0bffe6ff6e1fb25a6a80f6c3464", "mdistiller/distillers"
)
WSLD = Source("bellymonster/Weighted-Soft-Label-Distillation", "4ecf930e7da4bf450c4f3436cf53f90d34767137")
CLS_KD = Source("yzd-v/cls_KD", "ad4876fa4c5c70db5d11b892278c4090086ce935", "mmcls/distillation/losses")
TTM = Source("zkxufo/TTM", "2de9060d32b85221c00d864d47b8f68016491d86", "distiller_zoo")
REVIEWKD = Source("dvlab-research/ReviewKD", "6607308a444e0b53650639f6b040515b3d665e05", "CIFAR-100/model")
CWD = Source("irfanICMLL/TorchDistiller", "c2caaca0942b615d2362fa0c9468ed1db292a2f0", "SemSeg-distill/utils")
MGD = Source("yzd-v/MGD", "046aba2dc2b067bc3e75ceb8f5e006e922937232")
WKD = Source("hanna6666/wassterin_dill", "ff03a5dbadba4260a21f2adf8efb5c6000a89ec5", "mdistiller/distillers")
VKD = Source("roymiles/VkD", "0c9cc5eb7dec9c771350b74b01e9ff6f26bf4c2c")
CREAM = Source("microsoft/Cream", "ced6c2671bd1a37cf7b3acd8a24a86a50d3473a8", "MiniViT")


# What their files import from their own packages.


class Registry:
    """Stands for the registries of mmcls, mmdet and mmrazor."""

    def register_module(self) -> Callable[[type], type]:
        return lambda found: found


class Distiller(nn.Module):
    """Stands for mdistiller's base class."""

    def __init__(self, student: Any = None, teacher: Any = None) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher


class BaseConnector(nn.Module):
    """Stands for mmrazor's base class."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()

    def forward(self, feature: Tensor) -> Tensor:
        return self.forward_train(feature)


class Torch(types.ModuleType):
    """Torch with some of its names swapped."""

    def __init__(self, **swapped: Any) -> None:
        super().__init__("torch")
        self.__dict__.update(swapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


STAND_INS: dict[str, Any] = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "np": np,
    "math": math,
    "norm": norm,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
    "normalize": F.normalize,
    "cosine_similarity": F.cosine_similarity,
    "register_mid_level_loss": lambda found: found,
    "MODELS": Registry(),
    "DISTILL_LOSSES": Registry(),
    "Distiller": Distiller,
    "BaseConnector": BaseConnector,
    "ConfigurableDistiller": object,
    "config": types.SimpleNamespace(optim=types.SimpleNamespace(label_smooth=False)),
}


def definitions(files: list[Path], names: list[str], swapped: dict[str, Any]) -> types.SimpleNamespace:
    """Execute the named classes and functions of some files, and nothing else of them."""
    bodies = [node for file in files for node in ast.parse(file.read_text()).body]
    wanted = [node for node in bodies if getattr(node, "name", None) in names]
    missing = set(names) - {node.name for node in wanted}
    if missing:
        raise SystemExit(f"{', '.join(map(str, files))}: {sorted(missing)} not found, so this is another version")
    scope = STAND_INS | ({"torch": Torch(**swapped)} if swapped else {})
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module(wanted, []), str(files[0]), "exec", flags=flags), scope)
    return types.SimpleNamespace(**{name: scope[name] for name in names})


def block(file: Path, function: str, name: str) -> Any:
    """Return, compiled, the body of the `if` in a function that assigns a name, so that it can be run alone."""
    inside = next(node for node in ast.parse(file.read_text()).body if getattr(node, "name", None) == function)
    for node in ast.walk(inside):
        assigned = [
            t.id
            for s in getattr(node, "body", [])
            if isinstance(s, ast.Assign)
            for t in s.targets[:1]
            if isinstance(t, ast.Name)
        ]
        if isinstance(node, ast.If) and name in assigned:
            return compile(ast.Module(node.body, []), str(file), "exec")
    raise SystemExit(f"{file}: nothing in {function} assigns {name}, so this is another version")


Spec = dict[str, Any]


@dataclass
class Given:
    """What a reference is run with."""

    student: list[Tensor]
    teacher: list[Tensor]
    labels: Tensor | None
    others: dict[str, Tensor]
    parameters: dict[str, Tensor]
    files: list[Path]

    def fill(self, module: nn.Module, prefix: str = "") -> nn.Module:
        """Set every parameter and buffer of a module."""
        state = module.state_dict()
        mine = {name.removeprefix(prefix): value for name, value in self.parameters.items() if name.startswith(prefix)}
        left = [name for name in state if name not in mine and not name.endswith("num_batches_tracked")]
        assert not left, f"no numbers for {left}"
        module.load_state_dict(state | mine)
        return module.train()


@dataclass
class Reference:
    """One entry: where the code is, how it is called and with which numbers."""

    name: str
    source: Source
    files: str
    function: str
    run: Callable[[Any, Given], Tensor]
    student: list[Spec]
    teacher: list[Spec]
    labels: list[int] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Spec] = field(default_factory=dict)
    others: dict[str, Spec] = field(default_factory=dict)
    needs: str = ""
    swapped: Callable[[Given], dict[str, Any]] | None = None
    dtype: str = "float64"
    note: str = ""

    def paths(self) -> list[str]:
        return [f"{self.source.folder}/{file}".lstrip("/") for file in self.files.split()]

    def entry(self, folder: Path) -> dict[str, Any]:
        """Run the reference and describe what it returned."""
        files = [folder / self.source.repository / path for path in self.paths()]
        given = Given(
            [torch.tensor(array(spec), requires_grad=True) for spec in self.student],
            [torch.tensor(array(spec)) for spec in self.teacher],
            None if self.labels is None else torch.tensor(self.labels),
            {name: torch.tensor(array(spec)) for name, spec in self.others.items()},
            {name: torch.tensor(array(spec)) for name, spec in self.parameters.items()},
            files,
        )
        names = (self.needs or self.function.split(".")[0]).split()
        swapped = self.swapped(given) if self.swapped else {}
        theirs = definitions(files, names, swapped) if names != ["-"] else None
        value = self.run(theirs, given)
        found: dict[str, Any] = {"value": None, "gradient": None}
        if value.ndim and value.numel() > 1:
            found["output"] = value.flatten().tolist()
        else:
            value.sum().backward()
            found["value"] = value.item()
            found["gradient"] = [(torch.zeros_like(x) if x.grad is None else x.grad).tolist() for x in given.student]
            flat = torch.cat([x.grad.flatten() for x in given.student if x.grad is not None])
            assert math.isfinite(found["value"]), self.name
            assert flat.isfinite().all(), self.name
        return {
            "name": self.name,
            "repository": self.source.repository,
            "commit": self.source.commit,
            "path": " ".join(self.paths()),
            "function": self.function,
            "arguments": self.arguments,
            "dtype": self.dtype,
            "inputs": {"student": self.student, "teacher": self.teacher, "labels": self.labels, "others": self.others},
            "parameters": self.parameters,
            "note": self.note,
            **found,
        }


REFERENCES: list[Reference] = []


def reference(name: str, source: Source, files: str, function: str, **given: Any) -> Callable[[Callable], Callable]:
    """Add an entry whose run is the decorated function."""

    def add(run: Callable[[Any, Given], Tensor]) -> Callable[[Any, Given], Tensor]:
        REFERENCES.append(Reference(name, source, files, function, run, **given))
        return run

    return add


def normal(*shape: int, seed: int, **more: Any) -> Spec:
    return {"shape": list(shape), "seed": seed, **more}


def convolution(name: str, *shape: int, seed: int, bias: bool = True) -> dict[str, Spec]:
    """Describe the weight and bias of a convolution."""
    weight = {f"{name}.weight": normal(*shape, seed=seed, scale=0.5)}
    return weight | ({f"{name}.bias": normal(shape[0], seed=seed + 1, scale=0.5)} if bias else {})


def batch_norm(name: str, width: int, seed: int) -> dict[str, Spec]:
    """Describe a BatchNorm; its running statistics do not count in train mode."""
    return {
        f"{name}.weight": normal(width, seed=seed, scale=0.3, shift=1.0),
        f"{name}.bias": normal(width, seed=seed + 1, scale=0.3),
        f"{name}.running_mean": normal(width, seed=seed + 2, scale=0.1),
        f"{name}.running_var": {"shape": [width], "seed": seed + 3, "kind": "uniform", "shift": 0.5},
    }


def outputs(*tensors: Tensor) -> dict[str, Any]:
    """Return what torchdistill hands to a loss: outputs by module path."""
    return {f"m{k}": {"output": tensor} for k, tensor in enumerate(tensors)}


PATHS = ("m0", "output", "m0", "output")


# Attention transfer, FitNet, neuron selectivity, flow of solution procedure.

MAPS: dict[str, Any] = {"student": [normal(3, 4, 4, 4, seed=1)], "teacher": [normal(3, 5, 4, 4, seed=2)]}
SMALLER: dict[str, Any] = {"student": MAPS["student"], "teacher": [normal(3, 5, 2, 2, seed=3)]}
POOLED = "the student's map is average-pooled to the teacher's size"


REGRESSOR = convolution("conv_reg.conv", 5, 4, 1, 1, seed=10)


@reference("at_zoo", ZOO, "at.py", "AT", arguments={"p": 2.0}, **MAPS, note="norm + 1e-6; mean over B, H, W")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.AT(2.0)(*given.student, *given.teacher)


@reference("at_zoo_p3", ZOO, "at.py", "AT", arguments={"p": 3.0}, **MAPS, note="absolute values, so odd p differs")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.AT(3.0)(*given.student, *given.teacher)


def _at(theirs: Any, given: Given) -> Tensor:
    return theirs.single_stage_at_loss(*given.student, *given.teacher, 2)


AT_NOTE = "F.normalize (eps 1e-12 as a floor), mean over channels; mean over B and pixels; one stage"
reference("at_mdistiller", MDISTILLER, "AT.py", "single_stage_at_loss", arguments={"p": 2}, **MAPS, note=AT_NOTE)(_at)
reference(
    "at_mdistiller_pooled", MDISTILLER, "AT.py", "single_stage_at_loss", arguments={"p": 2}, **SMALLER, note=POOLED
)(_at)


@reference("at_repdistiller", REPDISTILLER, "AT.py", "Attention", arguments={"p": 2}, **MAPS, note=AT_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.Attention(2)(given.student, given.teacher)[0]


@reference(
    "fitnet_repdistiller",
    REPDISTILLER._replace(folder=""),
    "distiller_zoo/FitNet.py models/util.py",
    "HintLoss ConvReg",
    needs="HintLoss ConvReg",
    **MAPS,
    parameters=REGRESSOR | batch_norm("conv_reg.bn", 5, seed=12),
    note="conv 1x1 with bias, BatchNorm in train mode, ReLU, then the mean square; models/util.py at eedab9d1",
)
def _(theirs: Any, given: Given) -> Tensor:
    conv_reg = theirs.ConvReg(given.student[0].shape, given.teacher[0].shape)
    given.fill(conv_reg, "conv_reg.")
    return theirs.HintLoss()(conv_reg(*given.student), *given.teacher)


def _fitnet(theirs: Any, given: Given) -> Tensor:
    """Let mdistiller's FitNet find its regressor from the shapes of two models that return the given maps."""
    loss = types.SimpleNamespace(CE_WEIGHT=0.0, FEAT_WEIGHT=1.0)
    cfg = types.SimpleNamespace(FITNET=types.SimpleNamespace(LOSS=loss, HINT_LAYER=0, INPUT_SIZE=(2, 2)))
    logits = torch.zeros(3, 2)
    fitnet = theirs.FitNet(
        lambda image: (logits, {"feats": given.student}), lambda image: (logits, {"feats": given.teacher}), cfg
    )
    given.fill(fitnet)
    return fitnet.forward_train(None, torch.zeros(3, dtype=torch.long))[1]["loss_kd"]


FITNET_NOTE = "conv with bias, BatchNorm in train mode, ReLU, then the mean square"
for _name, _size, _kernel, _what in (
    ("", 4, (5, 4, 1, 1), "1x1"),
    ("_halved", 2, (5, 4, 3, 3), "3x3 of stride 2"),
    ("_doubled", 8, (4, 5, 4, 4), "transposed 4x4 of stride 2"),
):
    _weights = convolution("conv_reg.conv", *_kernel, seed=10)
    _weights["conv_reg.conv.bias"] = normal(5, seed=11, scale=0.5)
    reference(
        f"fitnet_mdistiller{_name}",
        MDISTILLER,
        "FitNet.py _common.py",
        "FitNet.forward_train",
        needs="FitNet ConvReg get_feat_shapes",
        student=MAPS["student"],
        teacher=[normal(3, 5, _size, _size, seed=2)],
        parameters=_weights | batch_norm("conv_reg.bn", 5, seed=12),
        note=f"{FITNET_NOTE}; conv: {_what}",
    )(_fitnet)


@reference("nst_zoo", ZOO, "nst.py", "NST", **MAPS, note="channels normalised over pixels")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.NST()(*given.student, *given.teacher)


def _nst(theirs: Any, given: Given) -> Tensor:
    return theirs.nst_loss(given.student, given.teacher)


NST: dict[str, Any] = {"needs": "nst_loss single_stage_nst_loss poly_kernel"}
reference("nst_mdistiller", MDISTILLER, "NST.py", "nst_loss", **NST, **MAPS, note="as nst_zoo")(_nst)
reference("nst_mdistiller_pooled", MDISTILLER, "NST.py", "nst_loss", **NST, **SMALLER, note=POOLED)(_nst)


@reference("nst_repdistiller", REPDISTILLER, "NST.py", "NSTLoss", **MAPS, note="as nst_zoo")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.NSTLoss()(given.student, given.teacher)[0]


FLOW: dict[str, Any] = {
    "student": [normal(3, 3, 4, 4, seed=20), normal(3, 4, 2, 2, seed=21)],
    "teacher": [normal(3, 3, 4, 4, seed=22), normal(3, 4, 2, 2, seed=23)],
}
FSP_NOTE = "first map average-pooled to the second's size; mean square over B and C1 x C2"


@reference("fsp_zoo", ZOO, "fsp.py", "FSP", **FLOW, note=FSP_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.FSP()(*given.student, *given.teacher)


@reference("fsp_repdistiller", REPDISTILLER, "FSP.py", "FSP", **FLOW, note=FSP_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    shapes = [x.shape for x in given.student]
    return theirs.FSP(shapes, shapes)(given.student, given.teacher)[0]


@reference(
    "fsp_torchdistill",
    TORCHDISTILL,
    "mid_level.py",
    "FSPLoss",
    needs="FSPLoss _extract_feature_map",
    **FLOW,
    note="max-pooled; 2-norm over the first map's channels, summed over the second's and B, then / B",
)
def _(theirs: Any, given: Given) -> Tensor:
    at = [{"io": "output", "path": f"m{k}"} for k in (0, 1)]
    pair = {"student_first": at[0], "student_second": at[1], "teacher_first": at[0], "teacher_second": at[1]}
    return theirs.FSPLoss({"pair": pair})(outputs(*given.student), outputs(*given.teacher))


# Relations between rows.

ROWS: dict[str, Any] = {"student": [normal(4, 5, seed=30)], "teacher": [normal(4, 6, seed=31)]}
TWINS: dict[str, Any] = {
    "student": [normal(4, 5, seed=30, repeat=[[3, 0]])],
    "teacher": [normal(4, 6, seed=31, repeat=[[3, 0]])],
}
TWIN = "rows 0 and 3 are equal"


def _pkt_zoo(theirs: Any, given: Given) -> Tensor:
    return theirs.PKTCosSim()(*given.student, *given.teacher)


PKT_NOTE = "norm + eps, (cos + 1)/2, rows to 1 with the diagonal; mean over B x B; eps"
reference("pkt_zoo", ZOO, "pkt.py", "PKTCosSim", **ROWS, note=f"{PKT_NOTE} 1e-6")(_pkt_zoo)
reference("pkt_zoo_twins", ZOO, "pkt.py", "PKTCosSim", **TWINS, note=TWIN)(_pkt_zoo)


@reference("pkt_mdistiller", MDISTILLER, "PKT.py", "pkt_loss", **ROWS, note=f"{PKT_NOTE} 1e-7")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.pkt_loss(*given.student, *given.teacher)


@reference("pkt_repdistiller", REPDISTILLER, "PKT.py", "PKT", **ROWS, note=f"{PKT_NOTE} 1e-7")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.PKT()(*given.student, *given.teacher)


@reference("pkt_torchdistill", TORCHDISTILL, "mid_level.py", "PKTLoss", **ROWS, note=f"{PKT_NOTE} 1e-7")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.PKTLoss(*PATHS)(outputs(*given.student), outputs(*given.teacher))


RKD_NOTE = "smooth L1, mean over all pairs (triples) with the zeros of the diagonal"
RKD_TWIN = f"{TWIN}; their distance counts as 1e-6 in the mean distance (the squared one is clamped at 1e-12)"


def _rkd_distance_zoo(theirs: Any, given: Given) -> Tensor:
    return theirs.RKD(1.0, 1.0).rkd_dist(*given.student, *given.teacher)


reference("rkd_distance_zoo", ZOO, "rkd.py", "RKD.rkd_dist", **ROWS, note=RKD_NOTE)(_rkd_distance_zoo)
reference("rkd_distance_zoo_twins", ZOO, "rkd.py", "RKD.rkd_dist", **TWINS, note=RKD_TWIN)(_rkd_distance_zoo)


@reference("rkd_angle_zoo", ZOO, "rkd.py", "RKD.rkd_angle", **ROWS, note=RKD_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.RKD(1.0, 1.0).rkd_angle(*given.student, *given.teacher)


for _name, _distance, _angle in (("distance", 1.0, 0.0), ("angle", 0.0, 1.0), ("both", 25.0, 50.0)):

    @reference(
        f"rkd_{_name}_mdistiller",
        MDISTILLER,
        "RKD.py",
        "rkd_loss",
        needs="rkd_loss _pdist",
        **ROWS,
        arguments={"distance_weight": _distance, "angle_weight": _angle},
        note=RKD_NOTE,
    )
    def _(theirs: Any, given: Given, distance: float = _distance, angle: float = _angle) -> Tensor:
        return theirs.rkd_loss(*given.student, *given.teacher, distance_weight=distance, angle_weight=angle)

    @reference(
        f"rkd_{_name}_repdistiller",
        REPDISTILLER,
        "RKD.py",
        "RKDLoss",
        **ROWS,
        arguments={"w_d": _distance, "w_a": _angle},
        note=RKD_NOTE,
    )
    def _(theirs: Any, given: Given, distance: float = _distance, angle: float = _angle) -> Tensor:
        return theirs.RKDLoss(distance, angle)(*given.student, *given.teacher)

    @reference(
        f"rkd_{_name}_torchdistill",
        TORCHDISTILL,
        "mid_level.py",
        "RKDLoss",
        **ROWS,
        arguments={"dist_factor": _distance, "angle_factor": _angle, "reduction": "mean"},
        note=RKD_NOTE,
    )
    def _(theirs: Any, given: Given, distance: float = _distance, angle: float = _angle) -> Tensor:
        loss = theirs.RKDLoss("m0", "m0", distance, angle, "mean")
        return loss(outputs(*given.student), outputs(*given.teacher))


for _name, _class in (("distance", "DistanceWiseRKD"), ("angle", "AngleWiseRKD")):
    for _suffix, _norm in (("", True), ("_plain", False)):

        @reference(
            f"rkd_{_name}_mmrazor{_suffix}",
            MMRAZOR,
            "losses/relational_kd.py",
            _class,
            needs=f"{_class} euclidean_distance angle",
            **ROWS,
            arguments={"loss_weight": 1.0, "with_l2_norm": _norm},
            note="rows L2-normalised first (the default)" if _norm else "rows as they are",
        )
        def _(theirs: Any, given: Given, name: str = _class, norm: bool = _norm) -> Tensor:
            return getattr(theirs, name)(loss_weight=1.0, with_l2_norm=norm)(*given.student, *given.teacher)


TWIN_MAPS: dict[str, Any] = {
    "student": [normal(4, 3, 2, 2, seed=34, repeat=[[3, 0]])],
    "teacher": [normal(4, 5, 2, 2, seed=35, repeat=[[3, 0]])],
}
SP_NOTE = f"flattened maps, rows of the Gram matrix to unit length; sum of squares / B^2; {TWIN}"


@reference("sp_zoo", ZOO, "sp.py", "SP", **TWIN_MAPS, note=SP_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.SP()(*given.student, *given.teacher)


@reference("sp_mdistiller", MDISTILLER, "SP.py", "sp_loss", needs="sp_loss similarity_loss", **TWIN_MAPS, note=SP_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.sp_loss(given.student, given.teacher)


@reference("sp_repdistiller", REPDISTILLER, "SP.py", "Similarity", **TWIN_MAPS, note=SP_NOTE)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.Similarity()(given.student, given.teacher)[0]


@reference(
    "sp_torchdistill",
    TORCHDISTILL,
    "mid_level.py",
    "SPKDLoss",
    arguments={"reduction": "batchmean"},
    **TWIN_MAPS,
    note=f"rows of the Gram matrix divided by their sum of absolute values (normalize's second argument is p); {TWIN}",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.SPKDLoss("m0", "m0", "batchmean")(outputs(*given.student), outputs(*given.teacher))


def _cc_zoo(theirs: Any, given: Given) -> Tensor:
    return theirs.CC(0.4, 2)(*given.student, *given.teacher)


CC: dict[str, Any] = {"arguments": {"gamma": 0.4, "P_order": 2}}
reference("cc_zoo", ZOO, "cc.py", "CC", **CC, **ROWS, note="unit rows; mean square over B x B")(_cc_zoo)
reference("cc_zoo_twins", ZOO, "cc.py", "CC", **CC, **TWINS, note=TWIN)(_cc_zoo)


@reference(
    "cc_repdistiller",
    REPDISTILLER,
    "CC.py",
    "Correlation",
    student=[normal(4, 6, seed=36)],
    teacher=[normal(4, 6, seed=37)],
    note="another formula: mean over B - 1 of the dot products of |s - t| of neighbouring rows; "
    "their embedding is not in it",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.Correlation()(*given.student, *given.teacher)


for _kernel in ("gaussian", "bilinear"):

    @reference(
        f"cc_torchdistill_{_kernel}",
        TORCHDISTILL,
        "mid_level.py",
        "CCKDLoss",
        **ROWS,
        arguments={"kernel": _kernel, "gamma": 0.4, "max_p": 2, "reduction": "batchmean"},
        note="rows as they are; Frobenius norm (not squared) / B^2",
    )
    def _(theirs: Any, given: Given, kernel: str = _kernel) -> Tensor:
        loss = theirs.CCKDLoss("m0", "m0", {"type": kernel, "gamma": 0.4, "max_p": 2}, "batchmean")
        return loss(outputs(*given.student), outputs(*given.teacher))


GRAPH: dict[str, Any] = {
    "student": [
        normal(3, 3, 4, 4, seed=40),
        normal(3, 6, 2, 2, seed=41),
        normal(3, 6, seed=42),
        normal(3, 5, seed=43),
    ],
    "teacher": [
        normal(3, 4, 4, 4, seed=44),
        normal(3, 8, 2, 2, seed=45),
        normal(3, 8, seed=46),
        normal(3, 5, seed=47),
    ],
}
SAME_WIDTH = GRAPH | {
    "student": [GRAPH["student"][0], normal(3, 3, 2, 2, seed=48), *GRAPH["student"][2:]],
}
IRG_NOTE = "maps 1 and 2, pooled feature, logits; squared distances / their maximum, which has a gradient"
for _name, _weights, _inputs in (
    ("vertex", (1.0, 0.0, 0.0), GRAPH),
    ("edge", (0.0, 1.0, 0.0), GRAPH),
    ("transformation", (0.0, 0.0, 1.0), GRAPH),
    ("transformation_same_width", (0.0, 0.0, 1.0), SAME_WIDTH),
    ("all", (0.1, 5.0, 5.0), GRAPH),
):

    @reference(
        f"irg_{_name}_zoo",
        ZOO,
        "irg.py",
        "IRG",
        **_inputs,
        note=IRG_NOTE,
        arguments=dict(zip(("w_irg_vert", "w_irg_edge", "w_irg_tran"), _weights, strict=True)),
    )
    def _(theirs: Any, given: Given, weights: tuple = _weights) -> Tensor:
        return theirs.IRG(*weights)(given.student, given.teacher)


# Losses with trained parts.

VID_NOTE = "three 1x1 convs without bias, ReLU between; log(1 + exp a) + eps; mean over everything; eps"


def regressor(*names: str) -> dict[str, Spec]:
    shapes = ((5, 4), (5, 5), (5, 5))
    return {n: normal(*s, 1, 1, seed=50 + k, scale=0.5) for k, (n, s) in enumerate(zip(names, shapes, strict=True))}


VID_WEIGHTS = regressor("regressor.0.weight", "regressor.2.weight", "regressor.4.weight")


@reference(
    "vid_zoo",
    ZOO,
    "vid.py",
    "VID",
    needs="VID conv1x1",
    arguments={"init_var": 5.0},
    **MAPS,
    parameters=VID_WEIGHTS | {"alpha": normal(5, seed=53)},
    note=f"{VID_NOTE} 1e-6",
)
def _(theirs: Any, given: Given) -> Tensor:
    return given.fill(theirs.VID(4, 5, 5, 5.0))(*given.student, *given.teacher)


def _vid(theirs: Any, given: Given) -> Tensor:
    conv = [nn.Conv2d(4, 5, 1, bias=False), nn.Conv2d(5, 5, 1, bias=False), nn.Conv2d(5, 5, 1, bias=False)]
    module = given.fill(nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2]), "regressor.")
    return theirs.vid_loss(module, given.parameters["log_scale"], *given.student, *given.teacher)


VID: dict[str, Any] = {"parameters": VID_WEIGHTS | {"log_scale": normal(5, seed=53)}}
reference("vid_mdistiller", MDISTILLER, "VID.py", "vid_loss", **VID, **MAPS, note=f"{VID_NOTE} 1e-5")(_vid)
reference("vid_mdistiller_pooled", MDISTILLER, "VID.py", "vid_loss", **VID, **SMALLER, note=POOLED)(_vid)


@reference("vid_repdistiller", REPDISTILLER, "VID.py", "VIDLoss", **VID, **MAPS, note=f"{VID_NOTE} 1e-5")
def _(theirs: Any, given: Given) -> Tensor:
    return given.fill(theirs.VIDLoss(4, 5, 5))(*given.student, *given.teacher)


@reference(
    "afd_zoo",
    ZOO,
    "afd.py",
    "AFD",
    arguments={"att_f": 1.0},
    student=MAPS["student"],
    teacher=[normal(3, 4, 4, 4, seed=2)],
    parameters=convolution("attention.0", 4, 4, 1, 1, seed=60) | convolution("attention.2", 4, 4, 1, 1, seed=62),
    note="norm + 1e-6; sigmoid weights sum to 1 over channels; sum over channels, mean over B",
)
def _(theirs: Any, given: Given) -> Tensor:
    return given.fill(theirs.AFD(4, 1.0))(*given.student, *given.teacher)


@reference(
    "ofd_zoo",
    ZOO,
    "ofd.py",
    "OFD",
    **MAPS,
    parameters=convolution("connector.0", 5, 4, 1, 1, seed=64, bias=False) | batch_norm("connector.1", 5, seed=65),
    note="margin = mean of the batch's negatives per channel; mean over everything; BatchNorm in train mode",
)
def _(theirs: Any, given: Given) -> Tensor:
    return given.fill(theirs.OFD(4, 5))(*given.student, *given.teacher)


TEACHER_NORM = {
    "teacher.0.weight": {"values": [1.0, -0.7, 0.2, 0.5, 1.5]},
    "teacher.0.bias": {"values": [0.3, -0.4, 1.0, 0.0, -1.0]},
}
TEACHER_NORMS = TEACHER_NORM | {
    "teacher.1.weight": normal(5, seed=70, scale=0.3, shift=1.0),
    "teacher.1.bias": normal(5, seed=71, scale=0.5),
}


def double(given: Given) -> dict[str, Any]:
    return {"FloatTensor": torch.DoubleTensor}


def _norms(given: Given, count: int) -> list[nn.BatchNorm2d]:
    """Return the teacher's BatchNorms, of which only weight and bias count."""
    norms = [nn.BatchNorm2d(5) for _ in range(count)]
    for k, module in enumerate(norms):
        module.weight.data, module.bias.data = (given.parameters[f"teacher.{k}.{n}"] for n in ("weight", "bias"))
    return norms


MARGIN_NOTE = (
    "output: the margins per channel (no value, no gradient); torch.FloatTensor is read as float64; channel 2 has "
    "Phi(-m/s) < 0.001, so -3 s"
)


@reference(
    "ofd_margin_mdistiller",
    MDISTILLER,
    "OFD.py",
    "OFD.init_ofd_modules",
    needs="OFD ConnectorConvBN feat_loss",
    student=[],
    teacher=[],
    parameters=TEACHER_NORM,
    swapped=double,
    note=MARGIN_NOTE,
)
def _(theirs: Any, given: Given) -> Tensor:
    ofd = theirs.OFD.__new__(theirs.OFD)
    Distiller.__init__(ofd)
    ofd.init_ofd_modules([5], [4], _norms(given, 1))
    return ofd.margins[0]


@reference(
    "ofd_margin_mmrazor",
    MMRAZOR,
    "distillers/ofd_distiller.py",
    "OFDDistiller._get_margin_from_BN",
    student=[],
    teacher=[],
    parameters=TEACHER_NORM,
    swapped=double,
    note=MARGIN_NOTE,
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.OFDDistiller._get_margin_from_BN(None, *_norms(given, 1))


CONNECTORS = {
    **convolution("connectors.0.0", 5, 4, 1, 1, seed=72, bias=False),
    **batch_norm("connectors.0.1", 5, seed=73),
    **convolution("connectors.1.0", 5, 4, 1, 1, seed=77, bias=False),
    **batch_norm("connectors.1.1", 5, seed=78),
}


@reference(
    "ofd_mdistiller",
    MDISTILLER,
    "OFD.py",
    "OFD.ofd_loss",
    needs="OFD ConnectorConvBN feat_loss",
    student=[normal(3, 4, 4, 4, seed=1), normal(3, 4, 2, 2, seed=4)],
    teacher=[normal(3, 5, 4, 4, seed=2), normal(3, 5, 2, 2, seed=5)],
    parameters=TEACHER_NORMS | CONNECTORS,
    swapped=double,
    note="mean over B, sum over the rest; level 0 counts half; connectors' BatchNorms in train mode; margins "
    "from teacher.*, torch.FloatTensor read as float64; weight not in it",
)
def _(theirs: Any, given: Given) -> Tensor:
    ofd = theirs.OFD.__new__(theirs.OFD)
    Distiller.__init__(ofd)
    ofd.init_ofd_modules([5, 5], [4, 4], _norms(given, 2))
    given.fill(ofd.connectors.connectors, "connectors.")
    return ofd.ofd_loss(given.student, given.teacher)


@reference(
    "ofd_mmrazor",
    MMRAZOR,
    "losses/ofd_loss.py architectures/connectors/ofd_connector.py",
    "OFDLoss",
    needs="OFDLoss OFDTeacherConnector",
    arguments={"loss_weight": 1.0, "mul_factor": 1000.0},
    student=[normal(3, 5, 4, 4, seed=6)],
    teacher=[normal(3, 5, 4, 4, seed=2)],
    others={"margin": {"values": [[[[-0.5]], [[-0.1]], [[-1.0]], [[-0.3]], [[-2.0]]]]}},
    note="no connector on the student's side; max(t, margin); sum / B / 1000",
)
def _(theirs: Any, given: Given) -> Tensor:
    connector = theirs.OFDTeacherConnector()
    connector.init_margin(given.others["margin"])
    return theirs.OFDLoss()(*given.student, connector(*given.teacher))


# Logits.

LOGITS: dict[str, Any] = {
    "student": [normal(4, 5, seed=80, scale=2.0)],
    "teacher": [normal(4, 5, seed=81, scale=3.0)],
}
LABELS: dict[str, Any] = {"labels": [0, 2, 4, 2]}


@reference("kd_zoo", ZOO_ST, "st.py", "SoftTarget", arguments={"T": 4.0}, **LOGITS, note="T^2, mean over B")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.SoftTarget(4.0)(*given.student, *given.teacher)


@reference("kd_mdistiller", MDISTILLER, "KD.py", "kd_loss", arguments={"temperature": 4}, **LOGITS, note="as kd_zoo")
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.kd_loss(*given.student, *given.teacher, 4)


DKD_NOTE = "T^2, mean over B; the other classes' softmax by subtracting 1000 from the label's logit"


@reference(
    "dkd_mdistiller",
    MDISTILLER,
    "DKD.py",
    "dkd_loss",
    needs="dkd_loss _get_gt_mask _get_other_mask cat_mask",
    arguments={"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
    **LOGITS,
    **LABELS,
    note=DKD_NOTE,
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.dkd_loss(*given.student, *given.teacher, given.labels, 1.0, 8.0, 4.0)


@reference(
    "dkd_mmrazor",
    MMRAZOR,
    "losses/decoupled_kd.py",
    "DKDLoss",
    arguments={"tau": 4.0, "alpha": 1.0, "beta": 8.0},
    **LOGITS,
    **LABELS,
    note=DKD_NOTE,
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.DKDLoss(tau=4.0, beta=8.0)(*given.student, *given.teacher, given.labels)


DIST_NOTE = "softmax first; denominator + 1e-8; rows and columns"


@reference(
    "dist_authors",
    DIST,
    "dist_kd.py",
    "DIST",
    needs="DIST cosine_similarity pearson_correlation logit_relation class_relation",
    arguments={"beta": 1.0, "gamma": 1.0},
    **LOGITS,
    note=f"{DIST_NOTE}; no temperature",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.DIST()(*given.student, *given.teacher)


for _suffix, _tau, _beta, _gamma in (("", 1.0, 1.0, 1.0), ("_tau4", 4.0, 2.0, 0.5)):

    @reference(
        f"dist_mmrazor{_suffix}",
        MMRAZOR,
        "losses/dist_loss.py",
        "DISTLoss",
        needs="DISTLoss cosine_similarity pearson_correlation inter_class_relation intra_class_relation",
        arguments={"tau": _tau, "inter_loss_weight": _beta, "intra_loss_weight": _gamma},
        **LOGITS,
        note=f"{DIST_NOTE}; tau^2",
    )
    def _(theirs: Any, given: Given, tau: float = _tau, beta: float = _beta, gamma: float = _gamma) -> Tensor:
        return theirs.DISTLoss(beta, gamma, tau)(*given.student, *given.teacher)

    @reference(
        f"dist_torchdistill{_suffix}",
        TORCHDISTILL,
        "mid_level.py",
        "DISTLoss",
        arguments={"tau": _tau, "beta": _beta, "gamma": _gamma},
        **LOGITS,
        note="F.cosine_similarity: eps 1e-8 as a floor of each norm; tau^2",
    )
    def _(theirs: Any, given: Given, tau: float = _tau, beta: float = _beta, gamma: float = _gamma) -> Tensor:
        loss = theirs.DISTLoss(*PATHS, beta=beta, gamma=gamma, tau=tau)
        return loss(outputs(*given.student), outputs(*given.teacher))


@reference(
    "logit_standardized_authors",
    LOGIT_STD,
    "KD.py",
    "kd_loss",
    needs="kd_loss normalize",
    arguments={"temperature": 2.0, "logit_stand": True},
    **LOGITS,
    note="unbiased std + 1e-7; T^2; weight 9 not in it",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.kd_loss(*given.student, *given.teacher, 2.0, True)


@reference(
    "logit_standardized_torchdistill",
    TORCHDISTILL,
    "mid_level.py",
    "LogitStdKDLoss",
    arguments={"temperature": 2.0, "alpha": 0.1, "beta": 9.0},
    **LOGITS,
    **LABELS,
    note="alpha * cross entropy of the raw logits + beta * T^2 * KL; without labels T^2 is dropped",
)
def _(theirs: Any, given: Given) -> Tensor:
    loss = theirs.LogitStdKDLoss(*PATHS, temperature=2.0, alpha=0.1, beta=9.0)
    return loss(outputs(*given.student), outputs(*given.teacher), given.labels)


WSLD_NOTE = "cross entropy instead of KL; weights at temperature 1, detached; T^2; mean over B"


@reference(
    "wsld_mmrazor",
    MMRAZOR,
    "losses/weighted_soft_label_distillation.py",
    "WSLD",
    arguments={"tau": 2.0, "loss_weight": 1.0, "num_classes": 5},
    **LOGITS,
    **LABELS,
    note=WSLD_NOTE,
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.WSLD(2.0, 1.0, 5)(*given.student, *given.teacher, given.labels)


@reference(
    "wsld_authors",
    WSLD,
    "knowledge_distiller.py",
    "WSLDistiller.forward",
    **LOGITS,
    **LABELS,
    arguments={"T": 2, "alpha": 2.5},
    note=f"{WSLD_NOTE}; times alpha; the cross entropy with the labels is taken out; its 1000 classes are "
    "read as 5 and cuda() as nothing",
)
def _(theirs: Any, given: Given) -> Tensor:
    def of(classes: int, one_hot: Callable = F.one_hot) -> Callable:
        return lambda labels, num_classes: one_hot(labels, classes)

    with (
        patch.object(nn.Module, "cuda", lambda module: module),
        patch.object(Tensor, "cuda", lambda tensor: tensor),
        patch.object(F, "one_hot", of(5)),
    ):
        distiller = theirs.WSLDistiller(lambda x: given.teacher[0], lambda x: given.student[0])
        del distiller.hard_loss
        distiller.hard_loss = lambda *_: 0.0
        return distiller(None, given.labels)[1]


NKD_NOTE = (
    "target part always at temperature 1; cross entropies, so not 0 at equal logits; commit 1c2c0ff1 of the same file "
    "scatters 1 instead of 0 into the mask and so keeps the label among the other classes"
)
for _suffix, _temperature, _gamma in (("", 1.0, 1.5), ("_cifar", 3.0, 3.5)):

    @reference(
        f"nkd_authors{_suffix}",
        CLS_KD,
        "nkd.py",
        "NKDLoss",
        arguments={"temp": _temperature, "gamma": _gamma},
        **LOGITS,
        **LABELS,
        note=NKD_NOTE,
    )
    def _(theirs: Any, given: Given, temp: float = _temperature, gamma: float = _gamma) -> Tensor:
        return theirs.NKDLoss("nkd", True, temp, gamma)(*given.student, *given.teacher, given.labels)


for _class in ("TTM", "WTTM"):

    @reference(
        f"{_class.lower()}_authors",
        TTM,
        f"{_class.lower()}.py",
        _class,
        arguments={"l": 0.25},
        **LOGITS,
        note="l = 1/T; only the teacher is tempered; no T^2; mean over B"
        + ("; each row times sum_k p^l" if _class == "WTTM" else ""),
    )
    def _(theirs: Any, given: Given, name: str = _class) -> Tensor:
        return getattr(theirs, name)(0.25)(*given.student, *given.teacher)


# ReviewKD, channel-wise, masked generative.


def fusions(prefix: str, widths: list[tuple[int, int]], middle: int) -> dict[str, Spec]:
    """Describe the fusions of ReviewKD, the deepest first, given the widths (student, teacher) from the deepest."""
    found: dict[str, Spec] = {}
    for k, (student, teacher) in enumerate(widths):
        seed, name = 100 + 20 * k, f"{prefix}{k}"
        found |= convolution(f"{name}.conv1.0", middle, student, 1, 1, seed=seed, bias=False)
        found |= batch_norm(f"{name}.conv1.1", middle, seed=seed + 1)
        found |= convolution(f"{name}.conv2.0", teacher, middle, 3, 3, seed=seed + 5, bias=False)
        found |= batch_norm(f"{name}.conv2.1", teacher, seed=seed + 6)
        found |= convolution(f"{name}.att_conv.0", 2, 2 * middle, 1, 1, seed=seed + 10) if k else {}
    return found


def review(size: int) -> dict[str, Any]:
    """Describe two maps and a pooled feature per side; the student's maps are `size` and half of it wide."""
    return {
        "student": [
            normal(3, 3, size, size, seed=90),
            normal(3, 4, size // 2, size // 2, seed=91),
            normal(3, 4, 1, 1, seed=92),
        ],
        "teacher": [normal(3, 5, 8, 8, seed=93), normal(3, 6, 4, 4, seed=94), normal(3, 6, 1, 1, seed=95)],
        "parameters": fusions("abfs.", [(4, 6), (4, 6), (3, 5)], 4),
    }


REVIEW_NOTE = "all BatchNorms in train mode; levels summed; the last stage is the pooled feature"


def _review(theirs: Any, given: Given, shapes: list[int], out_shapes: list[int] | None) -> Tensor:
    class OnCpu(theirs.ReviewKD):
        def to(self, *_: Any) -> nn.Module:
            return self

    model = OnCpu(None, [3, 4, 4], [5, 6, 6], shapes, out_shapes)
    given.fill(model)
    model.student = lambda x, is_feat: (given.student, None)
    return theirs.hcl(model(None)[0], given.teacher)


REVIEW: dict[str, Any] = {"needs": "ReviewKD ABF hcl"}


@reference(
    "reviewkd_authors",
    REVIEWKD,
    "reviewkd.py",
    "ReviewKD hcl",
    **REVIEW,
    **review(8),
    note=REVIEW_NOTE,
    arguments={"shapes": [1, 4, 8], "out_shapes": None},
)
def _(theirs: Any, given: Given) -> Tensor:
    return _review(theirs, given, [1, 4, 8], None)


@reference(
    "reviewkd_authors_resized",
    REVIEWKD,
    "reviewkd.py",
    "ReviewKD hcl",
    **REVIEW,
    **review(4),
    arguments={"shapes": [1, 2, 4], "out_shapes": [1, 4, 8]},
    note=f"{REVIEW_NOTE}; student's maps are half the teacher's: nearest resize before the 3x3 conv",
)
def _(theirs: Any, given: Given) -> Tensor:
    return _review(theirs, given, [1, 2, 4], [1, 4, 8])


@reference(
    "reviewkd_mdistiller",
    MDISTILLER,
    "ReviewKD.py",
    "ReviewKD.forward_train",
    needs="ReviewKD ABF hcl_loss",
    **review(8),
    note=REVIEW_NOTE,
    arguments={
        "SHAPES": [1, 4, 8],
        "OUT_SHAPES": [1, 4, 8],
        "IN_CHANNELS": [3, 4, 4],
        "OUT_CHANNELS": [5, 6, 6],
        "REVIEWKD_WEIGHT": 1.0,
        "WARMUP_EPOCHS": 20,
        "epoch": 20,
    },
)
def _(theirs: Any, given: Given) -> Tensor:
    cfg = types.SimpleNamespace(
        SHAPES=[1, 4, 8],
        OUT_SHAPES=[1, 4, 8],
        IN_CHANNELS=[3, 4, 4],
        OUT_CHANNELS=[5, 6, 6],
        CE_WEIGHT=0.0,
        REVIEWKD_WEIGHT=1.0,
        WARMUP_EPOCHS=20,
        STU_PREACT=False,
        MAX_MID_CHANNEL=512,
    )

    def model(features: list[Tensor], stem: list[None]) -> Callable:
        maps = {"feats": features[:2], "preact_feats": stem + features[:2], "pooled_feat": features[2].flatten(1)}
        return lambda image: (torch.zeros(3, 2), maps)

    student, teacher = model(given.student, []), model(given.teacher, [None])
    loss = theirs.ReviewKD(student, teacher, types.SimpleNamespace(REVIEWKD=cfg))
    given.fill(loss)
    return loss.forward_train(None, torch.zeros(3, dtype=torch.long), epoch=20)[1]["loss_kd"]


HCL: dict[str, Any] = {
    "student": [normal(2, 2, 8, 8, seed=96), normal(2, 2, 4, 4, seed=97), normal(2, 3, 1, 1, seed=98)],
    "teacher": [normal(2, 2, 8, 8, seed=99), normal(2, 2, 4, 4, seed=100), normal(2, 3, 1, 1, seed=101)],
}


@reference(
    "hcl_authors",
    REVIEWKD,
    "reviewkd.py",
    "hcl",
    **HCL,
    note="sizes 8, 4, 2, 1 / 4, 2, 1 / 1 with weights 1, 1/2, ... over those kept; levels summed",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.hcl(given.student, given.teacher)


CHANNELS: dict[str, Any] = {"student": [normal(3, 4, 4, 4, seed=7, scale=2.0)], "teacher": [normal(3, 4, 4, 4, seed=8)]}
for _tau in (1.0, 4.0):

    @reference(
        f"cwd_mmrazor_tau{_tau:g}",
        MMRAZOR,
        "losses/cwd.py",
        "ChannelWiseDivergence",
        arguments={"tau": _tau, "loss_weight": 1.0},
        **CHANNELS,
        note="T^2; sum over pixels, mean over B and C",
    )
    def _(theirs: Any, given: Given, tau: float = _tau) -> Tensor:
        return theirs.ChannelWiseDivergence(tau)(*given.student, *given.teacher)


@reference(
    "cwd_authors",
    CWD,
    "criterion.py",
    "CriterionCWD",
    needs="CriterionCWD ChannelNorm",
    **CHANNELS,
    arguments={"norm_type": "channel", "divergence": "kl", "temperature": 4.0},
    note="T^2; softmax, then its log; sum over pixels, mean over B and C",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.CriterionCWD("channel", "kl", 4.0)(*given.student, *given.teacher)


GENERATION = convolution("generation.0", 4, 4, 3, 3, seed=112) | convolution("generation.2", 4, 4, 3, 3, seed=114)
MASKED: dict[str, Any] = {
    "student": [normal(3, 3, 4, 4, seed=9)],
    "teacher": [normal(3, 4, 4, 4, seed=2)],
    "parameters": convolution("align", 4, 3, 1, 1, seed=110) | GENERATION,
}
SAME: dict[str, Any] = MASKED | {"student": [normal(3, 4, 4, 4, seed=1)], "parameters": GENERATION}
PIXELS: Spec = {"shape": [3, 1, 4, 4], "seed": 116, "kind": "uniform"}
WHOLE_CHANNELS: Spec = {"shape": [3, 4, 1, 1], "seed": 117, "kind": "uniform"}
MGD_NOTE = "torch.rand returns others.random; sum over C, H, W, mean over B; "
OVER, UNDER = "zero where it is above 1 - lambda", "zero where it is below lambda"


def fixed(given: Given) -> dict[str, Any]:
    """Let torch.rand return the numbers of the entry."""

    def rand(shape: tuple[int, ...]) -> Tensor:
        assert tuple(shape) == given.others["random"].shape
        return given.others["random"]

    return {"rand": rand}


for _suffix, _inputs in (("", MASKED), ("_same_width", SAME)):
    _width = _inputs["student"][0]["shape"][1]

    @reference(
        f"mgd_authors_detection{_suffix}",
        MGD,
        "det/mmdet/distillation/losses/mgd.py",
        "FeatureLoss",
        **_inputs,
        arguments={"alpha_mgd": 1.0, "lambda_mgd": 0.65},
        others={"random": PIXELS},
        swapped=fixed,
        note=MGD_NOTE + OVER,
    )
    def _(theirs: Any, given: Given, width: int = _width) -> Tensor:
        return given.fill(theirs.FeatureLoss(width, 4, "fpn", 1.0, 0.65))(*given.student, *given.teacher)


@reference(
    "mgd_authors_classification",
    MGD,
    "cls/mmcls/distillation/losses/mgd.py",
    "MGDLoss",
    **MASKED,
    arguments={"alpha_mgd": 1.0, "lambda_mgd": 0.4},
    others={"random": WHOLE_CHANNELS},
    swapped=fixed,
    note=MGD_NOTE + UNDER + "; whole channels",
)
def _(theirs: Any, given: Given) -> Tensor:
    return given.fill(theirs.MGDLoss(3, 4, "mgd", 1.0, 0.4))(*given.student, *given.teacher)


for _suffix, _random, _whole in (("", PIXELS, False), ("_channels", WHOLE_CHANNELS, True)):

    @reference(
        f"mgd_mmrazor{_suffix}",
        MMRAZOR,
        "losses/mgd_loss.py architectures/connectors/mgd_connector.py",
        "MGDLoss",
        needs="MGDLoss MGDConnector",
        **MASKED,
        others={"random": _random},
        swapped=fixed,
        arguments={"alpha_mgd": 1.0, "lambda_mgd": 0.65, "mask_on_channel": _whole},
        note=MGD_NOTE + OVER,
    )
    def _(theirs: Any, given: Given, whole: bool = _whole) -> Tensor:
        connector = given.fill(theirs.MGDConnector(3, 4, 0.65, whole))
        return theirs.MGDLoss(1.0)(connector(*given.student), *given.teacher)


# Wasserstein distances, orthogonal projection, MiniViT.

WKD_NOTE = (
    "target part at temperature 1 + gamma * transport over the other classes; others.cost is what the function gets "
    "(already sharpened); + 1e-8 on the cost and in both denominators; "
)
for _suffix, _dtype, _swap, _what in (
    ("", "float32", None, "the transport is in float32, as it casts"),
    ("_double", "float64", lambda given: {"float32": torch.float64}, "torch.float32 is read as float64"),
):

    @reference(
        f"wkd_logits{_suffix}",
        WKD,
        "WKD.py",
        "wkd_logit_loss_with_speration",
        needs="sinkhorn wkd_logit_loss wkd_logit_loss_with_speration",
        **LOGITS,
        **LABELS,
        arguments={"temperature": 2.0, "gamma": 3.0, "sinkhorn_lambda": 0.05, "sinkhorn_iter": 10},
        others={"cost": {"shape": [5, 5], "seed": 120, "kind": "distances"}},
        swapped=_swap,
        dtype=_dtype,
        note=WKD_NOTE + _what,
    )
    def _(theirs: Any, given: Given, dtype: str = _dtype) -> Tensor:
        cost = given.others["cost"].to(getattr(torch, dtype))
        loss = theirs.wkd_logit_loss_with_speration
        return loss(*given.student, *given.teacher, given.labels, 2.0, 3.0, cost, 0.05, 10)


def _wkd_feature(theirs: Any, given: Given, grid: int, ratio: float) -> Tensor:
    mean, std = theirs.wkd_feature_loss(*given.student, *given.teacher, 1e-5, grid)
    return ratio * mean + std


WKD_F: dict[str, Any] = {"needs": "adaptive_avg_std_pool2d wkd_feature_loss"}
WKD_F_NOTE = "ratio * means + standard deviations, unbiased; sum over channels, mean over B and cells; no projector"
for _suffix, _size, _grid, _ratio in (("", 4, 1, 4.0), ("_grid", 4, 2, 2.0), ("_overlapping", 5, 2, 2.0)):

    @reference(
        f"wkd_features{_suffix}",
        WKD,
        "WKD.py",
        "wkd_feature_loss",
        **WKD_F,
        student=[normal(3, 4, _size, _size, seed=122)],
        teacher=[normal(3, 4, _size, _size, seed=123)],
        arguments={"eps": 1e-5, "grid": _grid, "ratio": _ratio},
        note=WKD_F_NOTE,
    )
    def _(theirs: Any, given: Given, grid: int = _grid, ratio: float = _ratio) -> Tensor:
        return _wkd_feature(theirs, given, grid, ratio)


@reference(
    "wkd_features_bottleneck",
    WKD,
    "WKD.py _common.py",
    "ConvRegBottleNeck wkd_feature_loss",
    needs="adaptive_avg_std_pool2d wkd_feature_loss ConvRegBottleNeck",
    **MAPS,
    parameters=convolution("conv1", 3, 4, 1, 1, seed=124)
    | convolution("conv2", 3, 3, 3, 3, seed=126)
    | convolution("conv3", 5, 3, 1, 1, seed=128)
    | batch_norm("bn", 5, seed=130),
    arguments={"c_hidden": 3, "eps": 1e-5, "grid": 2, "ratio": 2.0},
    note="projector: convs 1x1, 3x3, 1x1 with bias and nothing between (256 wide in theirs), BatchNorm in train "
    "mode, ReLU",
)
def _(theirs: Any, given: Given) -> Tensor:
    projector = given.fill(theirs.ConvRegBottleNeck(given.student[0].shape, given.teacher[0].shape, 3))
    projected = Given([projector(*given.student)], given.teacher, None, {}, {}, [])
    return _wkd_feature(theirs, projected, 2, 2.0)


@reference(
    "vkd_authors",
    VKD,
    "engine.py",
    "train_one_epoch",
    needs="-",
    student=[normal(3, 5, 4, seed=140)],
    teacher=[normal(3, 6, 2, 2, seed=141)],
    arguments={"alpha": 1.0},
    parameters={"projector.weight": {"shape": [6, 4], "seed": 142, "kind": "orthonormal"}},
    note="only the lines that make repr_distill_loss; patch tokens (B, L, C) and teacher's map averaged; the "
    "projector is a Linear without bias of the given orthonormal weight (theirs is "
    "torch.nn.utils.parametrizations.orthogonal of one); layer norm of the teacher, eps 1e-5, no affine",
)
def _(theirs: Any, given: Given) -> Tensor:
    projector = given.fill(nn.Linear(4, 6, bias=False), "projector.")
    student = types.SimpleNamespace(module=types.SimpleNamespace(projector=projector))
    scope = {
        "z_s": given.student[0],
        "z_t_conv": given.teacher[0],
        "student": student,
        "args": types.SimpleNamespace(alpha=1.0),
        "F": F,
        "torch": torch,
    }
    exec(block(given.files[0], "train_one_epoch", "z_t_conv_norm"), scope)
    return scope["repr_distill_loss"]


@reference(
    "minivit_deit_soft",
    CREAM,
    "Mini-DeiT/losses.py",
    "DistillationLoss",
    arguments={"distillation_type": "soft", "alpha": 1.0, "tau": 2.0},
    **LOGITS,
    **LABELS,
    note="T^2 * KL, sum / (B * K)",
)
def _(theirs: Any, given: Given) -> Tensor:
    loss = theirs.DistillationLoss(nn.CrossEntropyLoss(), lambda inputs: given.teacher[0], "soft", 1.0, 2.0)
    return loss(None, given.student[0], given.labels)


@reference(
    "minivit_soft",
    CREAM,
    "Mini-Swin/main.py",
    "soft_cross_entropy",
    **LOGITS,
    note="cross entropy, no temperature inside; mean over B",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.soft_cross_entropy(*given.student, *given.teacher)


for _heads in (1, 2):

    @reference(
        f"minivit_relations_{_heads}",
        CREAM,
        "Mini-Swin/main.py",
        "cal_relation_loss",
        needs="cal_relation_loss soft_cross_entropy",
        arguments={"Ar": _heads},
        student=[normal(2, 4, 4, seed=150 + k) for k in range(3)],
        teacher=[normal(2, 4, 6, seed=153 + k) for k in range(3)],
        note="one layer; query, key, value; all nine ordered pairs, cross entropy of the softmaxes, averaged",
    )
    def _(theirs: Any, given: Given, heads: int = _heads) -> Tensor:
        return theirs.cal_relation_loss([given.student], [given.teacher], heads)


@reference(
    "minivit_hidden_relation",
    CREAM,
    "Mini-Swin/main.py",
    "cal_hidden_relation_loss",
    student=[normal(2, 4, 4, seed=160)],
    teacher=[normal(2, 4, 6, seed=161)],
    note="cosines between tokens; mean square times 49 (a constant); layers averaged; weight 0.1 not in it",
)
def _(theirs: Any, given: Given) -> Tensor:
    return theirs.cal_hidden_relation_loss(given.student, given.teacher)


def written(entries: list[dict[str, Any]]) -> str:
    """Return JSON with one line per key."""
    rows = [",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in e.items()) for e in entries]
    return "[\n" + ",\n".join(f" {{\n{row}\n }}" for row in rows) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="the folder that holds the repositories")
    parser.add_argument("--only", nargs="*", help="names of entries; the others stay as they are")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    old = {entry["name"]: entry for entry in json.loads(FIGURES.read_text())} if FIGURES.exists() else {}
    entries = []
    for known in REFERENCES:
        missing = [path for path in known.paths() if not (options.sources / known.source.repository / path).exists()]
        if options.only and known.name not in options.only:
            missing = ["-"]
        elif missing:
            kept = "its old entry stays" if known.name in old else "it has no entry"
            print(f"skipped {known.name}: {options.sources / known.source.repository / missing[0]} is missing; {kept}")
        if not missing:
            entries.append(known.entry(options.sources))
        elif known.name in old:
            entries.append(old[known.name])
    FIGURES.write_text(written(entries))
    print(f"{len(entries)} entries, {FIGURES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
