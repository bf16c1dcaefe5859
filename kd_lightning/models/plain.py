"""The plain student: its class, configuration and weights, found in a live module or in a checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError


@dataclass(frozen=True)
class Plain:
    """Everything of a student that is worth keeping.

    Args:
        state: its tensors on the CPU, under the names the bare model has.
        cls: its Transformers class, or None for any other model.
        config: its Transformers configuration.

    """

    state: dict[str, Tensor]
    cls: Any = None
    config: Any = None

    def model(self, format: str) -> Any:
        """Return a fresh model, in eval mode, that shares nothing with training but the values.

        Raises:
            ConfigError: for a student that is no Transformers model, or whose weights do not fit its configuration.

        """
        if self.cls is None:
            raise ConfigError(
                f"Format '{format}' needs a Transformers model, and this student is not one: use format='state_dict'."
            )
        model = _skeleton(self.cls, self.config)
        try:
            model.load_state_dict(self.state, assign=True)
        except RuntimeError as error:
            raise ConfigError(
                f"The student's weights do not fit a plain {self.cls.__name__}: {_first_line(error)} "
                "Merge or remove what was added to it (adapters, pruning), or use format='state_dict'."
            ) from error
        model.tie_weights()
        return model.eval()


def from_module(module: nn.Module) -> Plain:
    """Find the student in a live module, which is not changed.

    Raises:
        ConfigError: for a LightningModule without a `student`, or weights that are spread over processes.

    """
    model = _unwrapped(_student(module))
    state = _clean(model.state_dict())
    if not _is_transformers(type(model)):
        return Plain(state)
    return Plain(state, type(model), _bare(model.config))


def from_checkpoint(path: str | Path) -> Plain:
    """Find the student in a checkpoint that a `DistillationModule` wrote.

    Raises:
        ConfigError: for a file that is missing, needs pickle, holds no student, or names an unknown class.

    """
    checkpoint = _load(Path(path))
    weights = {name: value for name, value in checkpoint.get("state_dict", {}).items() if name.startswith("student.")}
    if any(name.startswith("tasks.") for name in checkpoint.get("state_dict", {})):
        raise ConfigError(
            f"The checkpoint '{path}' holds the students of several tasks: load it into its MultiTaskModule and export "
            "module.tasks[…] of each."
        )
    if not weights:
        raise ConfigError(f"The checkpoint '{path}' holds no student: nothing in it is called 'student.…'.")
    state = {name.removeprefix("student."): value for name, value in _clean(weights).items()}
    origin = checkpoint.get("kd_student")
    if origin is None:
        return Plain(state)
    cls = _transformers_class(origin["class"])
    fields = {name: value for name, value in origin["config"].items() if name != "auto_map"}  # never remote code
    return Plain(state, cls, cls.config_class.from_dict(fields))


def _student(module: nn.Module) -> nn.Module:
    if not hasattr(module, "training_step"):
        return module
    student = getattr(module, "student", None)
    if not isinstance(student, nn.Module):
        tasks = getattr(module, "tasks", None)
        part = f"tasks['{next(iter(tasks))}']" if isinstance(tasks, nn.ModuleDict) else "model"
        raise ConfigError(
            f"{type(module).__name__} has no `student`. Export the model itself, such as export(module.{part}, …)."
        )
    return student


def _unwrapped(model: nn.Module) -> nn.Module:
    """Take off torch.compile, DDP and standing taps."""
    from torch._dynamo import OptimizedModule
    from torch.nn.parallel import DistributedDataParallel

    from kd_lightning.features import TappedModel

    wrappers = {OptimizedModule: "_orig_mod", DistributedDataParallel: "module", TappedModel: "model"}
    for wrapper, attribute in wrappers.items():
        if isinstance(model, wrapper):
            return _unwrapped(getattr(model, attribute))
    return model


def _clean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Bring tensors to the CPU; parts that were compiled by themselves lose the name of their wrapper."""
    for name, value in state.items():
        if hasattr(value, "full_tensor"):
            raise ConfigError(f"'{name}' is spread over processes: gather it first, or export a full checkpoint.")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name.replace("_orig_mod.", ""): value.detach().cpu() for name, value in tensors.items()}


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no checkpoint file at '{path}'.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"Cannot read '{path}' as a checkpoint of plain data: {_first_line(error)}") from error


def _transformers_class(name: str) -> Any:
    """Return Transformers' own class of that name, or one this program has defined; nothing is fetched or unpickled."""
    import transformers

    found = getattr(transformers, name, None) or _defined().get(name)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and found.config_class):
        raise ConfigError(
            f"The checkpoint's student is a '{name}', which is no Transformers model known here: "
            "import the module that defines it first, or use format='state_dict'."
        )
    return found


def _defined() -> dict[str, type]:
    from transformers import PreTrainedModel

    def below(cls: Any) -> Iterator[Any]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    return {cls.__name__: cls for cls in below(PreTrainedModel)}


def _is_transformers(cls: type) -> bool:
    from transformers import PreTrainedModel

    return issubclass(cls, PreTrainedModel)


def _bare(config: Any) -> Any:
    """Return the configuration as it would come back from disk."""
    return type(config).from_dict(config.to_dict())


def _skeleton(cls: Any, config: Any) -> Any:
    """Build the class with weights that are about to be replaced, without touching the program's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return cls(config)


def _first_line(error: Exception) -> str:
    """Return the first line that says something specific: PyTorch's own begins with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)] if lines else type(error).__name__
