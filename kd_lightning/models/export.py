"""The one function that writes a student to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.models.export_folder import replaced
from kd_lightning.models.plain import Plain, from_checkpoint, from_module

Format = Literal["huggingface", "state_dict", "onnx"]
FORMATS = ("huggingface", "state_dict", "onnx")


def export(
    module_or_checkpoint: nn.Module | str | Path,
    path: str | Path,
    format: Format = "huggingface",
    tokenizer: Any = None,
) -> Path:
    """Write the student as a plain model: no hooks, no wrappers, no teacher, weights from the CPU in their own dtype.

    The folder appears whole or not at all; an earlier export at the same place is replaced. The model itself is not
    changed, and may be tapped or compiled meanwhile.

    Args:
        module_or_checkpoint: a LightningModule with a `student`, any model, or a checkpoint file that a
            `DistillationModule` wrote (read without pickle and without remote code).
        path: the folder to write.
        format: `huggingface`: `config.json` and `model.safetensors`, for `from_pretrained`; `state_dict`:
            `model.safetensors` alone, every tensor under its own name, for `load_state_dict`; `onnx`: `model.onnx` in
            float32 with dynamic batch and length, checked against the model with onnxruntime.
        tokenizer: saved beside the model, if given.

    Returns:
        The folder.

    Raises:
        ConfigError: for an unknown format, a folder that holds something else, a model or checkpoint that cannot be
            written in this format, missing packages, or an ONNX graph that disagrees with its model.

    Example:
        >>> import tempfile
        >>> folder = export(nn.Linear(2, 3), Path(tempfile.mkdtemp()) / "student", format="state_dict")
        >>> [file.name for file in folder.iterdir()]
        ['model.safetensors']

    """
    if format not in FORMATS:
        raise ConfigError(f"Unknown export format '{format}'. {hint(str(format), FORMATS)}")
    read = from_module if isinstance(module_or_checkpoint, nn.Module) else from_checkpoint
    plain = read(module_or_checkpoint)  # type: ignore[arg-type]
    with replaced(Path(path)) as folder:
        _WRITERS[format](plain, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return Path(path)


def _write_huggingface(plain: Plain, folder: Path) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        plain.model("huggingface").save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_state_dict(plain: Plain, folder: Path) -> None:
    from safetensors.torch import save_file

    # Tied tensors are written once under each name, so that a strict `load_state_dict` of the file works.
    save_file({name: tensor.clone().contiguous() for name, tensor in plain.state.items()}, folder / "model.safetensors")


def _write_onnx(plain: Plain, folder: Path) -> None:
    from kd_lightning.models.onnx import write_onnx

    write_onnx(plain.model("onnx"), folder / "model.onnx")


_WRITERS = {"huggingface": _write_huggingface, "state_dict": _write_state_dict, "onnx": _write_onnx}
