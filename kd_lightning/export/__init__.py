"""Leaving: the plain student, as Transformers, safetensors or ONNX files, with no trace of its training."""

from kd_lightning.export.exporter import export

__all__ = ["export"]
