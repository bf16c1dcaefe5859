"""Ways over from other toolkits."""

from kd_lightning.compat import textbrewer

__all__ = ["textbrewer"]
