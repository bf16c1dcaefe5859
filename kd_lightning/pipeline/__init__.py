"""The stages of a run and what carries them out: fine-tune the teacher, cache its outputs, train, evaluate, export."""

from kd_lightning.pipeline.cache import BuildCache
from kd_lightning.pipeline.distil import Baseline, Distil
from kd_lightning.pipeline.ensemble import Ensemble
from kd_lightning.pipeline.exit_curve import ExitCurve
from kd_lightning.pipeline.fine_tune import FineTune
from kd_lightning.pipeline.mutual import Mutual
from kd_lightning.pipeline.run import run
from kd_lightning.pipeline.settings import RunSettings, TaskSettings, TeacherSettings
from kd_lightning.pipeline.stage import Stage

__all__ = [
    "Baseline",
    "BuildCache",
    "Distil",
    "Ensemble",
    "ExitCurve",
    "FineTune",
    "Mutual",
    "RunSettings",
    "Stage",
    "TaskSettings",
    "TeacherSettings",
    "run",
]
