"""The plain student without wrappers, read from a live module or a checkpoint: class, configuration, weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.early_exit import PREFIX, early_exit_class
from kd_lightning.models.recipe import difference, rebuild


@dataclass(frozen=True)
class Plain:
    """What is exported of a student.

    Args:
        state: its tensors on the CPU, under the names they have in the model without wrappers.
        cls: its Transformers class, or None for any other model.
        config: its Transformers configuration.
        module: the model itself, if it is live and not a Transformers model.

    """

    state: dict[str, Tensor]
    cls: Any = None
    config: Any = None
    module: nn.Module | None = None

    def transformers_model(self) -> Any:
        """Return a new Transformers model with the student's values, in eval mode.

        Raises:
            ConfigError: if the student is no Transformers model, or its weights do not fit its configuration.

        """
        if self.cls is None:
            raise ConfigError(
                "Format 'huggingface' needs a Transformers model, and this student is not one: use format='state_dict'."
            )
        with torch.random.fork_rng(devices=[]):  # the initial weights are about to be replaced
            model = self.cls(self.config)
        self._check_fit(model)
        model.load_state_dict(self.state, assign=True)
        model.tie_weights()
        return model.eval()

    def check_transformers(self) -> None:
        """Raise ConfigError if the class or configuration would not give back this model; no weights are allocated."""
        name = self.cls.__name__
        if transformers_class(name, "The student") is not self.cls:
            raise ConfigError(f"The student's class is called {name}, as Transformers' own is: give it another name.")
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            self._check_fit(self.cls(self.config))

    def any_model(self, recipe: Mapping[str, Any] | None) -> nn.Module:
        """Return a new model of whatever class with the student's values, in eval mode on the CPU.

        Raises:
            ConfigError: if the student is only known by a checkpoint's weights, and there is no recipe.

        """
        if self.cls is not None:
            return self.transformers_model()
        if recipe is not None:
            return rebuild(recipe, self.state)
        if self.module is None:
            raise ConfigError(
                "The checkpoint has the student's weights but not its class: give the recipe that builds it, "
                "recipe={'_target_': 'package.builder', …}."
            )
        return copy.deepcopy(self.module).cpu().eval()

    def _check_fit(self, model: Any) -> None:
        if problem := difference(model.state_dict(), self.state):
            raise ConfigError(
                f"The student's weights do not fit a plain {self.cls.__name__}: {problem}. "
                "Merge or remove what was added to it (adapters, pruning), or use format='state_dict'."
            )


def from_module(module: nn.Module) -> Plain:
    """Return the student of a live module, which is not changed.

    Raises:
        ConfigError: if a LightningModule has no `student`, or weights are sharded over processes or are no tensors.

    """
    from transformers import PreTrainedModel

    model = _unwrapped(_student(module))
    state = _clean(model.state_dict())
    if not isinstance(model, PreTrainedModel):
        return Plain(state, module=model)
    config: Any = model.config
    return Plain(state, type(model), type(config).from_dict(config.to_dict()))  # as it would be read from disk


def from_checkpoint(path: str | Path) -> Plain:
    """Return the student of a checkpoint that a `DistillationModule` wrote.

    Raises:
        ConfigError: if the file is missing, needs pickle, holds no student, or names an unknown class.

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
    cls = transformers_class(origin["class"], "The checkpoint's student")
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
    """Return the model inside torch.compile, DDP and TappedModel."""
    from torch._dynamo import OptimizedModule
    from torch.nn.parallel import DistributedDataParallel

    from kd_lightning.features import TappedModel

    wrappers = {OptimizedModule: "_orig_mod", DistributedDataParallel: "module", TappedModel: "model"}
    for wrapper, attribute in wrappers.items():
        if isinstance(model, wrapper):
            return _unwrapped(getattr(model, attribute))
    return model


def _clean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors on the CPU; the names of parts that were compiled one by one lose their wrapper's."""
    for name, value in state.items():
        if hasattr(value, "full_tensor"):
            raise ConfigError(f"'{name}' is sharded over processes: gather it first, or export a full checkpoint.")
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = f"a {value.layout} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ConfigError(f"'{name}' in the student's state dict is {kind}: only dense tensors can be exported.")
    return {name.replace("_orig_mod.", ""): value.detach().cpu() for name, value in state.items()}


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no checkpoint file at '{path}'.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"Cannot read '{path}' as a checkpoint of plain data: {first_line(error)}") from error


def transformers_class(name: str, what: str) -> Any:
    """Return Transformers' own class of that name, or one that this program has defined; no code is fetched.

    Args:
        name: of the class.
        what: is of that class, to begin the error message.

    Raises:
        ConfigError: if no such model class is known.

    """
    import transformers

    def subclasses(cls: Any) -> Iterator[Any]:
        for sub in cls.__subclasses__():
            yield sub
            yield from subclasses(sub)

    if name.startswith(PREFIX):  # made of a class when it is asked for
        return early_exit_class(transformers_class(name.removeprefix(PREFIX), what))
    defined = {cls.__name__: cls for cls in subclasses(transformers.PreTrainedModel)}
    found = getattr(transformers, name, None) or defined.get(name)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and found.config_class):
        raise ConfigError(
            f"{what} is a '{name}', which is no Transformers model known here: import the module that defines it first."
        )
    return found


def first_line(error: Exception) -> str:
    """Return the first specific line of an error: PyTorch's own begin with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)] if lines else type(error).__name__
