"""Opening an exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.hub import check_whole, no_progress_bars
from kd_lightning.models.plain import first_line, transformers_class
from kd_lightning.models.recipe import rebuild


def load(folder: str | Path, trust: bool = False) -> nn.Module:
    """Open a model that `kd.export` wrote, in eval mode on the CPU, with its weights in the dtype they were saved in.

    A Transformers model is opened by its configuration, any other by the recipe in `model.yaml`. Weights are read from
    safetensors only, and no remote code is run. A recipe is code that someone else chooses, so only models of
    `torch.nn` and `kd_lightning` are built unless the folder is trusted. The program's random state is unchanged.

    Args:
        folder: an export in the format `huggingface`, or `state_dict` with a recipe.
        trust: whether whatever the recipe names may be imported and called.

    Raises:
        ConfigError: if there is no such model, a file is missing or damaged, its class is unknown or not trusted, or
            names or shapes of its weights do not fit it.

    Example:
        >>> import tempfile
        >>> import kd_lightning as kd
        >>> recipe = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
        >>> kd.load(kd.export(nn.Linear(2, 3), Path(tempfile.mkdtemp()) / "student", recipe=recipe))
        Linear(in_features=2, out_features=3, bias=True)

    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ConfigError(f"There is no folder '{path}' to load a model from.")
    check_whole(path)
    if (path / "config.json").is_file():
        return _load_transformers(path)
    if (path / "model.yaml").is_file():
        source = f"The recipe in '{path / 'model.yaml'}'"
        return rebuild(_read_recipe(path / "model.yaml"), _read_weights(path / "model.safetensors"), trust, source)
    if (path / "model.onnx").is_file():
        raise ConfigError(
            f"'{path}' holds an ONNX graph, which is no module: open it with "
            f"onnxruntime.InferenceSession('{path / 'model.onnx'}')."
        )
    if (path / "model.safetensors").is_file():
        raise ConfigError(
            f"'{path}' holds weights without the recipe that builds their model: build it yourself and load them with "
            "safetensors.torch.load_model, or export again with recipe={'_target_': 'package.builder', …}."
        )
    inside = sorted(file.parent.name for name in ("config.json", "model.yaml") for file in path.glob(f"*/{name}"))
    near = f" Closest: {path / inside[0]}." if inside else ""
    raise ConfigError(f"'{path}' holds no exported model (neither config.json nor model.yaml).{near}")


def _load_transformers(path: Path) -> nn.Module:
    try:
        names = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"'{path / 'config.json'}' is damaged: {first_line(error)}") from error
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise ConfigError(f"'{path / 'config.json'}' does not name the model's class in `architectures`.")
    cls = transformers_class(names[0], f"The model in '{path}'")
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    with no_progress_bars(), isolate_rng(include_cuda=torch.cuda.is_initialized()):
        try:
            model, info = cls.from_pretrained(path, **options)
        except Exception as error:  # a damaged configuration or file fails in many ways
            raise ConfigError(f"Cannot load '{path}' as a {names[0]}: {first_line(error)}") from error
    for kind, text in _MISFITS.items():
        if info[kind]:
            raise ConfigError(f"The weights in '{path}' do not fit a {names[0]}: {text.format(sorted(info[kind])[0])}.")
    return model.eval()


_MISFITS = {
    "missing_keys": "'{}' is missing in the weights",
    "unexpected_keys": "the model has no '{}'",
    "mismatched_keys": "{} has another shape",
}


def _read_recipe(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"'{file}' is damaged, or has no `recipe`: {first_line(error)}") from error


def _read_weights(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"Cannot read the weights in '{file}': {first_line(error)}") from error
