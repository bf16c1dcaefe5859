"""Where teacher features come from; all sources look alike."""

from kd_lightning.teachers.base import DeclaredInfo, TeacherSource
from kd_lightning.teachers.batch_teacher import BatchTeacher
from kd_lightning.teachers.cache import Fingerprint, TeacherCache
from kd_lightning.teachers.cached import CachedTeacher
from kd_lightning.teachers.delayed import DelayedTeacher
from kd_lightning.teachers.ema import EMATeacher
from kd_lightning.teachers.ensemble import EnsembleTeacher
from kd_lightning.teachers.live import LiveTeacher, as_teacher
from kd_lightning.teachers.own_features import SelfTeacher

__all__ = [
    "BatchTeacher",
    "CachedTeacher",
    "DeclaredInfo",
    "DelayedTeacher",
    "EMATeacher",
    "EnsembleTeacher",
    "Fingerprint",
    "LiveTeacher",
    "SelfTeacher",
    "TeacherCache",
    "TeacherSource",
    "as_teacher",
]
