"""Ways over from other toolkits."""

from kd_lightning.compat import mdistiller, mmrazor, repdistiller, textbrewer, tfkd, torchdistill, zoo

__all__ = ["mdistiller", "mmrazor", "repdistiller", "textbrewer", "tfkd", "torchdistill", "zoo"]
