"""Layers of the student that run in another way in some training steps: which layers, and how they are replaced."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.features.stacks import Stack, find_stacks
from kd_lightning.features.structure import tree
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.strategies.base import Strategy

Forward = Callable[..., Any]

INSIDE = ("attention", "scores", "query", "key", "value")
"""Features that a layer itself computes."""

DRAWS = 0x6B64
"""Sets the draws of layers apart from other random choices of a step."""


class LayerReplacement(Strategy):
    """Base of strategies in which each layer of the student runs, or something else in its place.

    Layers are those of the student's only stack, found by structure as for the addresses `hidden.k`; what comes after
    layer k is `hidden.k` in any case, so that terms on hidden states combine with it. A subclass says what runs in the
    place of a layer (`replacement`) and how often a layer itself runs (`rates`).

    Example:
        >>> class Everything(LayerReplacement):
        ...     needs_teacher = False
        ...     def rates(self, progress, layers):
        ...         return [progress] * layers
        ...     def replacement(self, index, own):
        ...         return lambda hidden, *args, **kwargs: hidden

    """

    skips_parameters = True

    def __init__(self) -> None:
        self.layers: list[nn.Module] = []

    @abstractmethod
    def rates(self, progress: float, layers: int) -> Sequence[float]:
        """Return the probability of each of the student's layers to run itself.

        Args:
            progress: share of training done, in [0, 1].
            layers: number of layers.

        """

    @abstractmethod
    def replacement(self, index: int, own: Forward) -> Forward:
        """Return what runs in a layer's place, called as the layer is.

        Args:
            index: of the layer, from 0.
            own: the layer's own forward.

        """

    def prepare(self, student: nn.Module, teacher: TeacherSource | None, addresses: Sequence[str] = ()) -> None:
        """Find the student's layers.

        Raises:
            ConfigError: if it has not one stack of layers, or a term reads what only a layer itself computes.

        """
        self.layers = [layer.module for layer in only_stack(student, "student").layers]
        inside = next((a for a in addresses if a.split(".")[0] in INSIDE), None)
        if inside is not None:
            raise ConfigError(
                f"{type(self).__name__} runs other modules in the place of layers, which have no '{inside}': match "
                "hidden states and logits, or leave the strategy out."
            )

    def setup(self, trainer: Any) -> None:
        """Check that a DDP strategy looks for parameters without gradient, which layers that do not run have.

        Raises:
            ConfigError: if it does not.

        """
        parallel = trainer.strategy
        several = isinstance(parallel, DDPStrategy) and parallel.world_size > 1
        if several and not parallel._ddp_kwargs.get("find_unused_parameters"):
            raise ConfigError(
                f"{type(self).__name__} leaves layers without gradient in some steps, which DDP treats as an error. "
                "Use Trainer(strategy='ddp_find_unused_parameters_true')."
            )

    def draw(self, progress: float, seed: int) -> list[bool]:
        """Return which layers run themselves in a step."""
        random = np.random.default_rng([seed, DRAWS])
        rates = np.asarray(self.rates(progress, len(self.layers)), dtype=float)
        if rates.shape != (len(self.layers),) or not ((rates >= 0) & (rates <= 1)).all():
            raise ConfigError(
                f"{type(self).__name__}.rates must return a probability for each of {len(self.layers)} layers, but "
                f"returned {rates.tolist()} at progress {progress:.3g}."
            )
        return (random.random(len(self.layers)) < rates).tolist()

    @contextmanager
    def applied(self, progress: float, seed: int) -> Iterator[None]:
        """Replace the forward of those layers that are not drawn."""
        with ExitStack() as restored:
            for index, runs in enumerate(self.draw(progress, seed)):
                if not runs:
                    layer = self.layers[index]
                    restored.enter_context(forward_replaced(layer, self.replacement(index, layer.forward)))
            yield

    def keep_graph(self, total: Tensor) -> Tensor:
        """Return the loss, with a gradient of zero where no layer of the student has run: the step counts."""
        if total.requires_grad or not torch.is_grad_enabled():
            return total
        trained = [p for layer in self.layers for p in layer.parameters() if p.requires_grad]
        return total + sum((p.flatten()[:1].sum() for p in trained), start=total.new_zeros(())) * 0.0


def only_stack(model: nn.Module, role: str) -> Stack:
    """Return a model's stack of layers.

    Args:
        model: teacher or student.
        role: what to call it.

    Raises:
        ConfigError: if it has none or several, or one whose layers share modules or cannot be told apart.

    """
    stacks = find_stacks(tree(model)).found
    if len(stacks) != 1:
        raise ConfigError(f"The {role} ({type(model).__name__}) has {len(stacks)} stacks of layers, and must have one.")
    (stack,) = stacks
    refusal = "its layers share modules" if stack.shared else stack.refusal
    if refusal:
        raise ConfigError(f"The layers of the {role} ({type(model).__name__}) cannot be replaced: {refusal}.")
    return stack


@contextmanager
def forward_replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Replace the forward of one module, whose hooks stay what they are.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with forward_replaced(layer, lambda x: x):
        ...     layer(torch.ones(2))
        tensor([1., 1.])
        >>> "forward" in vars(layer)
        False

    """
    before = vars(module).get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            object.__setattr__(module, "forward", before)


def first_argument(layer: Forward, args: Sequence[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """Return a call of a layer with its arguments by name; the first one is the hidden state, caches are left out."""
    bound = inspect.signature(layer).bind(*args, **kwargs)
    for name in bound.arguments:
        if name.startswith("past_key_value") or name == "layer_past":
            bound.arguments[name] = None  # layers of another model would be numbered otherwise in it
    return bound
