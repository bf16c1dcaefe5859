"""Teacher outputs on disk."""

from kd_lightning.teachers.cache.manifest import Fingerprint
from kd_lightning.teachers.cache.store import TeacherCache

__all__ = ["Fingerprint", "TeacherCache"]
