"""Where teacher features come from; all sources look alike."""

from kd_lightning.teachers.base import TeacherSource
from kd_lightning.teachers.ensemble import EnsembleTeacher
from kd_lightning.teachers.given import BatchTeacher
from kd_lightning.teachers.live import LiveTeacher, as_teacher

__all__ = ["BatchTeacher", "EnsembleTeacher", "LiveTeacher", "TeacherSource", "as_teacher"]
