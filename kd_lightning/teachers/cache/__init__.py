"""What teachers once said, on disk."""

from kd_lightning.teachers.cache.fingerprint import Fingerprint
from kd_lightning.teachers.cache.store import TeacherCache

__all__ = ["Fingerprint", "TeacherCache"]
