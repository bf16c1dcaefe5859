"""BERT-of-Theseus: the teacher's layers are replaced by the student's, more and more often, until those are alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.features import model_info
from kd_lightning.features.stacks import Stack
from kd_lightning.objective.layer_maps import uniform
from kd_lightning.teachers import TeacherSource
from kd_lightning.training.strategies.replacement import Forward, LayerReplacement, first_argument, only_stack


class Theseus(LayerReplacement):
    """In each step every layer of the student runs with a probability, else the layers of the teacher that it replaces.

    Xu et al. 2020 (2002.02925). With S and T layers, layer s of the student replaces those of the teacher after
    ⌊(s−1)·T/S + ½⌋ up to ⌊s·T/S + ½⌋, the layer map `uniform`. The probability grows with training as `rate` says and
    ends at 1, where the student alone is trained. In evaluation the student alone runs. Teacher layers are frozen
    copies in eval mode, in the student's precision.

    Embeddings, pooler and head are the teacher's, and frozen as in the paper unless `train_rest` is true. Layers start
    as the student was built: from the teacher's first ones in the paper, `student.layers=[1,2,3]`. Terms on logits and
    hidden states combine with it; the paper has the labels alone.

    Args:
        rate: progress in [0, 1] → probability of a layer of the student to run; `Replacing()` by default.
        train_rest: whether embeddings, pooler and head are trained too.

    Raises:
        ConfigError: if `rate` is no function; in `prepare`, for a teacher that is not one live model, as wide as the
            student and of its kind.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> def bert(layers):
        ...     sizes = dict(hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=20)
        ...     return BertModel(BertConfig(**sizes, num_hidden_layers=layers))
        >>> from kd_lightning import LiveTeacher
        >>> student, strategy = bert(2), Theseus()
        >>> strategy.prepare(student, LiveTeacher(bert(4)))
        >>> [len(layers) for layers in strategy.replaced]
        [2, 2]

    """

    def __init__(self, rate: Callable[[float], float] | None = None, train_rest: bool = False) -> None:
        super().__init__()
        if rate is not None and not callable(rate):
            raise ConfigError(
                "Expected argument `rate` of Theseus to be a function of progress, such as Replacing(start=0.5, "
                f"constant=True), but got {rate!r}."
            )
        self.rate = Replacing() if rate is None else rate
        self.train_rest = train_rest
        self.replaced: list[list[nn.Module]] = []
        """Of each layer of the student, the teacher's layers in whose place it comes."""
        self._part = 0

    def rates(self, progress: float, layers: int) -> Sequence[float]:
        """Return the probability of each layer to run."""
        return [self.rate(progress)] * layers

    def prepare(self, student: nn.Module, teacher: TeacherSource | None, addresses: Sequence[str] = ()) -> None:
        """Copy the teacher's layers, and its embeddings, pooler and head into the student."""
        super().prepare(student, teacher, addresses)
        model = _only_model(teacher)
        own, theirs = only_stack(student, "student"), only_stack(model, "teacher")
        _check_alike(own, theirs, [model_info(one).width("hidden.1") for one in (student, model)])
        ends = [uniform(s, len(own.layers), len(theirs.layers)) for s in range(len(own.layers) + 1)]
        copies = [_frozen_copy(layer.module) for layer in theirs.layers]
        self.replaced = [copies[start:end] for start, end in pairwise(ends)]
        self._part = theirs.index
        _take_rest(student, model, own, theirs, self.train_rest)

    def setup(self, trainer: Any) -> None:
        """Move the teacher's layers to the device."""
        super().setup(trainer)
        for layers in self.replaced:
            for layer in layers:
                layer.to(trainer.strategy.root_device)

    def replacement(self, index: int, own: Forward) -> Forward:
        """Return what runs the teacher's layers one after the other."""

        dtype = next(p.dtype for p in self.layers[index].parameters() if p.is_floating_point())
        for layer in self.replaced[index]:
            layer.to(dtype)  # bf16-true converts the student after `setup`

        def chain(*args: Any, **kwargs: Any) -> Any:
            call = first_argument(own, args, kwargs)
            first, made = next(iter(call.arguments)), None
            for layer in self.replaced[index]:
                made = layer(*call.args, **call.kwargs)
                call.arguments[first] = made[self._part] if isinstance(made, tuple) else made
            return made

        return chain


class Replacing:
    """The probability of a layer of the student to run: from `start` linearly to 1, then 1; or constant, and then 1.

    The paper's schedules as functions of progress: linear (`start` 0.3), and constant for a first phase of replacing,
    after which the student is fine-tuned.

    Args:
        start: at the beginning.
        until: share of training after which it is 1.
        constant: whether it stays at `start` until then.

    Raises:
        ConfigError: if `start` is not in [0, 1], or `until` not in (0, 1].

    Example:
        >>> Replacing(start=0.5, until=0.5)(0.25), Replacing(start=0.5, until=0.5, constant=True)(0.25)
        (0.75, 0.5)

    """

    def __init__(self, start: float = 0.3, until: float = 0.7, constant: bool = False) -> None:
        if not is_finite_number(start) or not 0 <= start <= 1:
            raise ConfigError(f"Expected argument `start` of Replacing to be in [0, 1] but got {start!r}.")
        if not is_finite_number(until) or not 0 < until <= 1:
            raise ConfigError(f"Expected argument `until` of Replacing to be in (0, 1] but got {until!r}.")
        self.start, self.until, self.constant = start, until, constant

    def __call__(self, progress: float) -> float:
        """Return the probability at `progress`."""
        if progress >= self.until:
            return 1.0
        return self.start if self.constant else self.start + (1 - self.start) * progress / self.until


def _only_model(teacher: TeacherSource | None) -> nn.Module:
    if teacher is not None and teacher.follows_student:
        raise ConfigError(
            f"Theseus runs a teacher's layers, and those of a {type(teacher).__name__} are the student's."
        )
    models = list(teacher.models()) if teacher is not None else []
    if len(models) != 1:
        what = "no teacher" if teacher is None else f"{type(teacher).__name__}, which runs {len(models)} models"
        raise ConfigError(
            f"Theseus runs the layers of one live teacher, and there is {what}: give a fine-tuned model, and no cache."
        )
    return models[0]


def _check_alike(own: Stack, theirs: Stack, widths: Sequence[int | None]) -> None:
    """Refuse layers that cannot stand in for each other, of which the student's width is the first."""
    one, other = own.layers[0].module, theirs.layers[0].module
    if type(one) is not type(other):
        raise ConfigError(
            f"Theseus needs layers of one kind, but the student's are {type(one).__name__} and the teacher's "
            f"{type(other).__name__}: take a student of the teacher's family."
        )
    if widths[0] != widths[1]:
        raise ConfigError(
            f"Theseus needs a student as wide as its teacher, such as t6 or t3: it has {widths[0]}, and the teacher "
            f"{widths[1]}."
        )
    if len(own.layers) > len(theirs.layers):
        raise ConfigError(
            f"The student has {len(own.layers)} layers, more than the teacher's {len(theirs.layers)}, and must have "
            "fewer for Theseus."
        )
    for stack in (own, theirs):
        kinds = getattr(getattr(stack.owner.module, "config", None), "layer_types", None) or ()
        if len({*kinds}) > 1 or any(hasattr(m, "relative_attention_bias") for m in stack.owner.module.modules()):
            raise ConfigError(
                f"Theseus cannot replace layers of {type(stack.owner.module).__name__}, which get different inputs."
            )


def _frozen_copy(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer in float32 that is not the teacher's own, on which its taps are."""
    return copy.deepcopy(layer).requires_grad_(False).float().eval()


def _take_rest(student: nn.Module, teacher: nn.Module, own: Stack, theirs: Stack, trained: bool) -> None:
    """Copy all weights that belong to no layer from the teacher, and freeze them unless they are trained."""
    known = {**dict(teacher.named_parameters()), **dict(teacher.named_buffers())}
    inside = {id(p) for layer in own.layers for p in (*layer.module.parameters(), *layer.module.buffers())}
    for kind in ("named_parameters", "named_buffers"):
        for name, tensor in getattr(student, kind)():
            if id(tensor) in inside:
                continue
            if name not in known or known[name].shape != tensor.shape:
                raise ConfigError(
                    f"Theseus takes '{name}' from the teacher, which has none of that shape: give both models one head."
                )
            with torch.no_grad():
                tensor.copy_(known[name])
            if kind == "named_parameters":
                tensor.requires_grad_(trained and tensor.requires_grad)
