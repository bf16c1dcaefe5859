"""Knowledge distillation as a Lightning citizen: frozen teachers, feature taps, composable losses."""

from __future__ import annotations

import importlib
from types import ModuleType

from kd_lightning import losses
from kd_lightning.core.adapter import Adapter
from kd_lightning.core.errors import KDError
from kd_lightning.core.types import LossReport, RowInfo
from kd_lightning.core.version import VERSION
from kd_lightning.features import FeatureTap, TappedModel
from kd_lightning.models.bigru import register as _register_bigru
from kd_lightning.models.export import check_exportable, export
from kd_lightning.models.load import load
from kd_lightning.objective import ExitScheme, MatchScheme, Objective, Term, sample_weights, schedules
from kd_lightning.objective.match import Match
from kd_lightning.teachers import (
    BatchTeacher,
    CachedTeacher,
    DelayedTeacher,
    EMATeacher,
    EnsembleTeacher,
    LiveTeacher,
    SelfTeacher,
    TeacherCache,
    TeacherSource,
)
from kd_lightning.training.callback import DistillationCallback
from kd_lightning.training.module import DistillationModule
from kd_lightning.training.multi_task import MultiTaskModule
from kd_lightning.training.mutual import MutualModule

__all__ = [
    "Adapter",
    "BatchTeacher",
    "CachedTeacher",
    "DelayedTeacher",
    "DistillationCallback",
    "DistillationModule",
    "EMATeacher",
    "EnsembleTeacher",
    "ExitScheme",
    "FeatureTap",
    "KDError",
    "LiveTeacher",
    "LossReport",
    "Match",
    "MatchScheme",
    "MultiTaskModule",
    "MutualModule",
    "Objective",
    "RowInfo",
    "SelfTeacher",
    "TappedModel",
    "TeacherCache",
    "TeacherSource",
    "Term",
    "callbacks",
    "check_exportable",
    "compat",
    "data",
    "export",
    "inspection",
    "load",
    "losses",
    "metrics",
    "sample_weights",
    "schedules",
    "strategies",
    "students",
]

__version__ = VERSION

_register_bigru()  # so that AutoModelForSequenceClassification.from_pretrained loads one

_LAZY = {
    "callbacks": "training.callbacks",
    "compat": "compat",
    "data": "data",
    "inspection": "models.inspection",
    "metrics": "metrics",
    "models": "models",
    "strategies": "training.strategies",
    "students": "models",
    "tasks": "tasks",
}
"""Sub-packages by public name; they bring heavier libraries along and are imported when first used."""


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"kd_lightning.{_LAZY[name]}")
    raise AttributeError(f"module 'kd_lightning' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
