"""Text classifiers with a branch behind every layer but the last, through which easy rows leave early: FastBERT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from kd_lightning.core.arguments import is_finite_number
from kd_lightning.core.errors import ConfigError
from kd_lightning.core.modes import in_eval_mode
from kd_lightning.features.stacks import find_stacks
from kd_lightning.features.structure import tree
from kd_lightning.models.adaptive import Adaptive, Leaving
from kd_lightning.models.branch import Branch, Pool, check_branch
from kd_lightning.models.shrink import Like, config_of, shrink

PREFIX = "EarlyExit"
"""Begins the names of classes with branches; what follows is the Transformers class that they are made of."""


class EarlyExit(nn.Module):
    """What classes with branches add to their architecture; `early_exit` makes such a model.

    The logits of the branch behind layer k are what the module `exit.k` returns, and so the feature `exit.k`.
    """

    exit: nn.ModuleDict
    config: Any
    layer_paths: tuple[str, ...]
    """Where the layers are, found once: paths hold in copies, too, and where a layer is replaced."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the whole model and all branches; return what the architecture returns."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        with self._hidden_states() as collected:
            output = super().forward(*args, **kwargs)
        for hidden, branch in zip(collected, self.exit.values(), strict=True):
            branch(hidden, mask)
        return output

    @contextmanager
    def _hidden_states(self) -> Iterator[list[Tensor]]:
        """Collect what each layer but the last returns.

        By hooks of one pass: those that Transformers installs for `output_hidden_states` stay, and cannot be pickled.
        """
        collected: list[Tensor] = []

        def collect(layer: nn.Module, args: Any, output: Any) -> None:
            collected.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for layer in self._layers()[:-1]:
                hooks.callback(layer.register_forward_hook(collect).remove)
            yield collected

    def _layers(self) -> list[nn.Module]:
        return [self.get_submodule(path) for path in self.layer_paths]

    @torch.no_grad()
    def adaptive(self, speed: float, attention_mask: Tensor | None = None, **inputs: Any) -> Adaptive:
        """Return logits of each row from the first classifier that is sure of it, and let it run no later layer.

        A row leaves behind the first layer k where H(p_k) / log C < speed. At 0 none does, and no branch runs; at 1 all
        leave behind the first layer, but for uniform ones. Rows that stay go on as a smaller batch. The model runs in
        eval mode, without gradient; one pass at a time, because hooks are on its layers meanwhile.

        Args:
            speed: in [0, 1].
            attention_mask: (B, L).
            inputs: the model's other ones, such as `input_ids` (B, L); labels are left out.

        Raises:
            ConfigError: if the speed is not in [0, 1], or there are no inputs.

        Example:
            >>> from transformers import BertConfig
            >>> tiny = BertConfig(vocab_size=99, hidden_size=8, num_attention_heads=2, intermediate_size=8)
            >>> model = early_exit(tiny, num_hidden_layers=3, num_labels=2, exit_width=4)
            >>> model.adaptive(1.0, input_ids=torch.tensor([[5, 6, 7], [8, 9, 5]])).layers
            tensor([1, 1])

        """
        if not is_finite_number(speed) or not 0 <= speed <= 1:
            raise ConfigError(f"Expected argument `speed` to be in [0, 1] but got {speed!r}.")
        given = {name: value for name, value in inputs.items() if name != "labels"} | {"attention_mask": attention_mask}
        rows = next((len(x) for x in given.values() if isinstance(x, Tensor)), None)
        if rows is None:
            raise ConfigError("adaptive(speed, …) needs the model's inputs by name, such as input_ids=….")
        branches = list(self.exit.values()) if speed > 0 else []
        leaving = Leaving(self._layers(), branches, speed, attention_mask, rows)
        with in_eval_mode(self.modules() if self.training else ()):
            return leaving.run(super().forward, given)


def early_exit(
    like: Like,
    *,
    exit_width: int = 128,
    exit_pool: Pool = "first",
    task: str = "sequence-classification",
    problem_type: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a classifier of the teacher's family with a branch behind every layer but the last.

    FastBERT, Liu et al. 2020 (2004.02178). `save_pretrained` and `kd.export` write an ordinary folder: plain
    Transformers opens it as the architecture, and `kd.load` with its branches.

    Args:
        like: the teacher, or its configuration.
        exit_width: of the branches, which 2 divides.
        exit_pool: how a branch makes one vector of tokens: `first`, `mean` or `max`.
        task: `sequence-classification` alone.
        problem_type: None or `single_label_classification` alone.
        options: those of `shrink`, such as `num_hidden_layers`, `layers` and `num_labels`.

    Raises:
        ConfigError: for another task, fewer than two layers or classes, or options that cannot be.

    Example:
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(vocab_size=99, hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> model = early_exit(tiny, num_hidden_layers=3, num_labels=4, exit_width=8)
        >>> list(model.exit), type(model).__name__
        (['1', '2'], 'EarlyExitBertForSequenceClassification')

    """
    if task != "sequence-classification" or problem_type not in (None, "single_label_classification"):
        what = task if task != "sequence-classification" else str(problem_type).replace("_", " ")
        raise ConfigError(f"Rows leave early where each has one class: there are no exits for {what}.")
    check_branch(exit_width, exit_pool)
    _check_family(like)
    plain: Any = shrink(like, task=task, problem_type=problem_type, **options)
    config = plain.config
    if config.num_labels < 2:
        raise ConfigError(f"Rows leave early where each has one of several classes, not one of {config.num_labels}.")
    config.exits = {"width": exit_width, "pool": exit_pool}
    model = early_exit_class(type(plain))(config)
    model.load_state_dict(plain.state_dict(), strict=False)
    return model


def _check_family(like: Like) -> None:
    """Refuse models whose head looks for something in the batch as it came in, of which rows have left.

    Raises:
        ConfigError: for families that are no masked language models, such as those whose head reads the last token.

    """
    kind = config_of(like).model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ConfigError(f"Rows leave early in families of masked language models, as BERT's, and {kind} is none.")


# -- classes ---------------------------------------------------------------------------------------------------------

CLASSES: dict[Any, Any] = {}
"""Classes with branches, by the Transformers class that each is made of."""


def early_exit_class(base: Any) -> Any:
    """Return the class with branches of a Transformers class, the same one every time.

    Its `from_pretrained` also opens folders without branches, which then begin at random.

    Args:
        base: a class for sequence classification.

    """
    if base not in CLASSES:

        def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            base.__init__(self, config, *args, **kwargs)
            _add_branches(self)

        @wraps(base.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return EarlyExit.forward(self, *args, **kwargs)

        members = {"__init__": build, "forward": forward, "__module__": __name__, "__doc__": EarlyExit.__doc__}
        CLASSES[base] = type(f"{PREFIX}{base.__name__}", (EarlyExit, base), members)
    return CLASSES[base]


def __getattr__(name: str) -> Any:
    """Return a class with branches by its name: where pickle looks for the class of a model."""
    import transformers

    base = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return early_exit_class(base)


def _add_branches(model: Any) -> None:
    """Give a new model its branches, as its configuration says.

    Raises:
        ConfigError: if it has not one stack of several layers.

    """
    config, found = model.config, find_stacks(tree(model)).found
    if len(found) != 1 or found[0].shared or found[0].refusal or found[0].index:
        raise ConfigError(f"A {type(model).__name__} has no single stack of layers behind which rows could leave.")
    model.layer_paths = tuple(layer.path for layer in found[0].layers)
    if len(model.layer_paths) < 2:
        raise ConfigError("Rows leave early where there are several layers: this model has one.")
    options = getattr(config, "exits", None) or {}
    config.exits = dict(options)
    numbers = range(1, len(model.layer_paths))
    model.exit = nn.ModuleDict({str(k): Branch(config.hidden_size, config.num_labels, **options) for k in numbers})
