"""Writing a student to disk as a plain model."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from kd_lightning.core.checksums import CHECKSUMS, write_checksums
from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.core.files import remove_leftovers, sync, sync_all
from kd_lightning.core.unwritable import explained
from kd_lightning.core.version import VERSION
from kd_lightning.models.hub import no_progress_bars
from kd_lightning.models.plain import Plain, from_checkpoint, from_module
from kd_lightning.models.recipe import rebuild

Format: TypeAlias = Literal["huggingface", "state_dict", "onnx"]
FORMATS = ("huggingface", "state_dict", "onnx")

_OURS = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "model.yaml",
    "model.onnx*", "preprocessor_config.json", "processor_config.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*", CHECKSUMS,
)  # fmt: skip
"""Files of an export; a folder with any other file is never replaced."""


def export(
    module_or_checkpoint: nn.Module | str | Path,
    path: str | Path,
    format: Format | None = None,
    processor: Any = None,
    recipe: Mapping[str, Any] | None = None,
    example: Mapping[str, Tensor] | tuple[Tensor, ...] | None = None,
    *,
    tokenizer: Any = None,
) -> Path:
    """Write the student as a plain model: no hooks, no wrappers, no teacher, weights from the CPU in their own dtype.

    The folder is written completely or not at all, with a record of its files, `checksums.json`; an earlier export at
    the same place is replaced. The model itself is not changed, and may be tapped or compiled meanwhile. `kd.load`
    opens what the first two formats write, the second one where it has a recipe.

    Args:
        module_or_checkpoint: a LightningModule with a `student`, any model, or a checkpoint file that a
            `DistillationModule` wrote (read without pickle and without remote code).
        path: the folder to write.
        format: `huggingface`: `config.json` and `model.safetensors`, for `from_pretrained`; `state_dict`:
            `model.safetensors` with every tensor under its own name, for `load_state_dict`, and `model.yaml` if there
            is a recipe; `onnx`: `model.onnx` in float32, checked against the model with onnxruntime. None:
            `huggingface` for a Transformers model, `state_dict` for any other.
        processor: tokenizer or image processor, saved beside the model with its `save_pretrained`.
        recipe: plain data that rebuild a model other than a Transformers one, `{"_target_": "package.builder",
            **arguments}`.
        example: the model's inputs for ONNX, by keyword or as a tuple of positions, batch first: the batch is dynamic,
            and the length of `input_ids`, `attention_mask` and `token_type_ids`. Transformers encoders need none.
        tokenizer: another name of `processor`.

    Returns:
        The folder.

    Raises:
        ConfigError: if the format is unknown, the folder holds something else, the model or checkpoint cannot be
            written in this format, the recipe does not rebuild the model, packages are missing, or the ONNX graph
            gives other outputs than the model.
        WriteError: if the disk is full; what was there before is then as it was.

    Example:
        >>> import tempfile
        >>> recipe = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
        >>> folder = export(nn.Linear(2, 3), Path(tempfile.mkdtemp()) / "student", recipe=recipe)
        >>> sorted(file.name for file in folder.iterdir())
        ['checksums.json', 'model.safetensors', 'model.yaml']

    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"Unknown export format '{format}'. {hint(str(format), FORMATS)}")
    if processor is not None and tokenizer is not None:
        raise ConfigError("`processor` and `tokenizer` are two names of one argument: give one of them.")
    for name, value, kinds in (
        ("module_or_checkpoint", module_or_checkpoint, nn.Module | str | Path),
        ("path", path, str | Path),
    ):
        if not isinstance(value, kinds):
            raise ConfigError(
                f"Expected argument `{name}` of export to be a {'model or a ' if name != 'path' else ''}path but got "
                f"{value!r}."
            )
    processor = tokenizer if processor is None else processor
    read = from_module if isinstance(module_or_checkpoint, nn.Module) else from_checkpoint
    plain = read(module_or_checkpoint)  # type: ignore[arg-type]
    with _replaced(Path(path)) as folder:
        if format == "onnx":
            from kd_lightning.models.onnx import write_onnx

            write_onnx(plain.any_model(recipe), folder / "model.onnx", example)
        elif format == "huggingface" or (format is None and plain.cls is not None):
            with no_progress_bars():
                plain.transformers_model().save_pretrained(folder)
        else:
            _write_state_dict(plain, folder, recipe)
        if processor is not None:
            _save_processor(processor, folder)
    return Path(path)


def _save_processor(processor: Any, folder: Path) -> None:
    """Save a tokenizer or image processor; a tokenizer without the truncation and padding of whatever it read last."""
    rules: Any = getattr(processor, "backend_tokenizer", None)
    truncation, padding = (rules.truncation, rules.padding) if rules is not None else (None, None)
    if truncation is not None:
        rules.no_truncation()
    if padding is not None:
        rules.no_padding()
    try:
        processor.save_pretrained(folder)
    finally:
        if truncation is not None:
            rules.enable_truncation(**truncation)
        if padding is not None:
            rules.enable_padding(**padding)


def check_exportable(model: nn.Module, recipe: Mapping[str, Any] | None = None, *, required: bool = False) -> None:
    """Raise an error before training if the model could not be exported, and loaded again, after it.

    The model is built a second time to compare names and shapes of its tensors: by its recipe, or, a Transformers
    model, by its configuration without allocating weights. The program's random state is unchanged.

    Args:
        model: the student, or a LightningModule with a `student`.
        recipe: plain data that rebuild a model other than a Transformers one, as for `export`.
        required: whether a model other than a Transformers one must have a recipe, without which `kd.load` cannot
            rebuild it.

    Raises:
        ConfigError: if the state dict holds something other than dense tensors; a Transformers model's weights do not
            fit its class and configuration; the recipe builds a model with other names or shapes; or the recipe is
            missing and required.

    Example:
        >>> check_exportable(nn.Linear(2, 3), {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 4})
        Traceback (most recent call last):
        ...
        kd_lightning.core.errors.ConfigError: The recipe builds a Linear that the weights do not fit: 'weight' is \
[3, 2], but [4, 2] in the model.

    """
    plain = from_module(model)
    if plain.cls is not None:
        plain.check_transformers()
    elif recipe is not None:
        _recipe_text(plain, recipe)
    elif required:
        raise ConfigError(
            f"A {type(plain.module).__name__} is no Transformers model, so loading it again needs the recipe that "
            "builds it: {'_target_': 'package.builder', …}."
        )


def _write_state_dict(plain: Plain, folder: Path, recipe: Mapping[str, Any] | None) -> None:
    from safetensors.torch import save_file

    if recipe is not None:
        (folder / "model.yaml").write_text(_recipe_text(plain, recipe), encoding="utf-8")
    # Tied tensors are written once under each name, so that a strict `load_state_dict` of the file works.
    save_file({name: tensor.clone().contiguous() for name, tensor in plain.state.items()}, folder / "model.safetensors")


def _recipe_text(plain: Plain, recipe: Mapping[str, Any]) -> str:
    """Return the content of `model.yaml`, after building the model by it once."""
    import yaml

    try:
        text = yaml.safe_dump(dict(recipe))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"The recipe must be plain data (mappings, lists, strings, numbers): {error}") from error
    model = rebuild(yaml.safe_load(text), plain.state)
    about = {
        "kd_version": VERSION,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "recipe": dict(recipe),
    }
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Give a new folder to write into, which replaces `path` if the block ends without an error.

    Raises:
        ConfigError: if `path` is a file, or a folder that holds something other than an export.

    """
    target = path.expanduser().resolve()
    _check_replaceable(target)
    fresh, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex}.{os.getpid()}.tmp") for _ in range(2))
    with explained(target, every_cause=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        fresh.mkdir()
    with explained(target):
        try:
            yield fresh
            write_checksums(fresh)
            sync_all(fresh)
            _exchange(fresh, target, old)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _exchange(fresh: Path, target: Path, old: Path) -> None:
    """Put a finished folder in the place of an earlier one."""
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if target.is_file():
        raise ConfigError(f"Cannot export to '{target}': it is a file, and an export is a folder.")
    files = sorted(target.iterdir()) if target.exists() else []
    for file in files:
        if not (file.is_file() and any(file.match(pattern) for pattern in _OURS)):
            raise ConfigError(
                f"Cannot export to '{target}': it holds '{file.name}', no part of an export. Give a new folder."
            )
    if files and Path.cwd().is_relative_to(target):
        raise ConfigError(f"Cannot export to '{target}': it is the working folder. Give a new one.")
