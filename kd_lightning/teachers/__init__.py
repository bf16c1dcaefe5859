"""Where teacher features come from; all sources look alike."""

from kd_lightning.teachers.base import DeclaredInfo, TeacherSource
from kd_lightning.teachers.batch_teacher import BatchTeacher
from kd_lightning.teachers.cache import Fingerprint, TeacherCache
from kd_lightning.teachers.cached import CachedTeacher
from kd_lightning.teachers.ensemble import EnsembleTeacher
from kd_lightning.teachers.live import LiveTeacher, as_teacher

__all__ = [
    "BatchTeacher",
    "CachedTeacher",
    "DeclaredInfo",
    "EnsembleTeacher",
    "Fingerprint",
    "LiveTeacher",
    "TeacherCache",
    "TeacherSource",
    "as_teacher",
]
