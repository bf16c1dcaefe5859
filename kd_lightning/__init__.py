"""Knowledge distillation as a Lightning citizen: frozen teachers, feature taps, composable losses."""

from __future__ import annotations

import importlib
from types import ModuleType

from kd_lightning import losses, schedules
from kd_lightning.adapter import Adapter
from kd_lightning.errors import KDError
from kd_lightning.export import export
from kd_lightning.features import FeatureTap, TappedModel
from kd_lightning.guest import DistillationCallback
from kd_lightning.matching import Match
from kd_lightning.module import DistillationModule, MultiTaskModule
from kd_lightning.objective import MatchScheme, Objective, Term
from kd_lightning.students.bigru_model import register as _register_bigru
from kd_lightning.teachers import BatchTeacher, CachedTeacher, EnsembleTeacher, LiveTeacher, TeacherCache, TeacherSource
from kd_lightning.types import LossReport

__all__ = [
    "Adapter",
    "BatchTeacher",
    "CachedTeacher",
    "DistillationCallback",
    "DistillationModule",
    "EnsembleTeacher",
    "FeatureTap",
    "KDError",
    "LiveTeacher",
    "LossReport",
    "Match",
    "MatchScheme",
    "MultiTaskModule",
    "Objective",
    "TappedModel",
    "TeacherCache",
    "TeacherSource",
    "Term",
    "callbacks",
    "compat",
    "data",
    "export",
    "inspection",
    "losses",
    "metrics",
    "schedules",
    "students",
]

_register_bigru()  # so that AutoModelForSequenceClassification.from_pretrained loads one

_LATE = ("callbacks", "compat", "data", "inspection", "metrics", "students")
"""Sub-packages that bring heavier libraries along; imported when first used."""


def __getattr__(name: str) -> ModuleType:
    if name in _LATE:
        return importlib.import_module(f"kd_lightning.{name}")
    raise AttributeError(f"module 'kd_lightning' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
