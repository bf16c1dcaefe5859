"""What every task is: one object with all that a run must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from kd_lightning.core.errors import ConfigError
from kd_lightning.losses import HardLabel, SoftCrossEntropy, SoftTarget
from kd_lightning.metrics import BatchMetric
from kd_lightning.models.heads import auto_class
from kd_lightning.models.hub import load_tokenizer
from kd_lightning.objective import Match, Objective, Term

if TYPE_CHECKING:
    from kd_lightning.data import DataModule

LATENCY_LENGTH = 128
"""Tokens of the example input, unless the model has fewer positions."""


class Task:
    """What a model is trained to do.

    Nothing else in a run asks which task it is: heads, fields, losses, metrics, example inputs and predictions come
    from this object. The kernel (features, losses, objective, teachers, modules) works without one.

    To add a task, subclass this in a file of its own, override what differs, and write `configs/task/NAME.yaml`.

    Args:
        metric: the score that chooses the best checkpoint.
        mode: `max` or `min`: whether more or less of it is better.
        metrics: metrics by name; a `functools.partial` is called with the data module.
        outputs: the address, or several, that the hard-label and the logits terms compare; None: the class's own.
        labels: the field of the batch that has the labels of each output; None: the class's own.
        hard_loss, soft_loss, soft_cross_entropy: loss classes, or their dotted names; None: the class's own.

    Example:
        >>> from functools import partial
        >>> class Moods(Task):
        ...     head = "sequence-classification"
        >>> task = Moods(metric="accuracy")
        >>> task.hard_objective().named_terms()["hard"].match
        Match(student='logits', teacher='labels')

    """

    head: ClassVar[str | None] = None
    """The head of Transformers models for this task, a key of `kd_lightning.models.heads.AUTO_CLASSES`; None: any."""

    multilabel: ClassVar[bool] = False
    """Whether a row may have several labels, or none."""

    regression: ClassVar[bool] = False
    """Whether labels are numbers and no classes."""

    cacheable: ClassVar[bool] = True
    """Whether a row is the same in every epoch, so that a teacher's outputs can be cached."""

    default_outputs: ClassVar[str | Sequence[str]] = "logits"
    default_labels: ClassVar[str | Sequence[str]] = "labels"

    hard_loss: type[nn.Module] | str = HardLabel
    """The loss of outputs against labels."""

    soft_loss: type[nn.Module] | str = SoftTarget
    """The loss of outputs against a teacher's; takes `temperature`."""

    soft_cross_entropy: type[nn.Module] | str = SoftCrossEntropy
    """The same as a cross entropy, as TextBrewer's recipe has it; takes `temperature` and `scaled`."""

    def __init__(
        self,
        metric: str,
        mode: str = "max",
        metrics: Mapping[str, Metric | Callable[..., Metric]] | None = None,
        outputs: str | Sequence[str] | None = None,
        labels: str | Sequence[str] | None = None,
        hard_loss: type[nn.Module] | str | None = None,
        soft_loss: type[nn.Module] | str | None = None,
        soft_cross_entropy: type[nn.Module] | str | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise ConfigError(f"'task.mode' cannot be {mode!r}: choose max or min.")
        self.metric = metric
        self.mode = mode
        self.metrics = dict(metrics or {})
        self.outputs = self.default_outputs if outputs is None else outputs
        self.labels = self.default_labels if labels is None else labels
        self.hard_loss = hard_loss or type(self).hard_loss
        self.soft_loss = soft_loss or type(self).soft_loss
        self.soft_cross_entropy = soft_cross_entropy or type(self).soft_cross_entropy

    # -- models ------------------------------------------------------------------------------------------------

    def auto_class(self) -> Any:
        """Return the Transformers Auto class that loads models with this task's head.

        Raises:
            ConfigError: the task names no head.

        """
        if self.head is None:
            raise ConfigError(
                f"{type(self).__name__} names no head of Transformers models: give teacher and student a _target_."
            )
        return auto_class(self.head)

    def model_options(self, data: DataModule) -> dict[str, Any]:
        """Return what a model's configuration says of the labels: `num_labels`, `problem_type`, names where known."""
        options: dict[str, Any] = {"num_labels": data.num_labels, "problem_type": None}
        if data.classes is not None:
            options["id2label"] = dict(enumerate(data.classes))
            options["label2id"] = {name: number for number, name in enumerate(data.classes)}
        return options

    def saved_processor(self, folder: Path) -> Any:
        """Return the tokenizer, or what else makes a model's inputs, that was saved with a model.

        Args:
            folder: what `kd.export` or `save_pretrained` wrote.

        Returns:
            None where there is none, as for a model that is no Transformers model: it takes the data's own.

        """
        return load_tokenizer(folder) if (folder / "config.json").is_file() else None

    def example_input(
        self, model: nn.Module, data: DataModule | None = None, teacher: bool = False
    ) -> Mapping[str, Tensor] | tuple[Any, ...]:
        """Return one row of inputs for a model, on its device: for latencies and ONNX graphs.

        Args:
            model: a model that takes `input_ids` and `attention_mask`, unless a subclass says otherwise.
            data: tells what rows are like; of texts it does not count.
            teacher: whether the model is the teacher, whose rows may differ from the student's.

        Returns:
            128 tokens, or as many as the model has positions for.

        """
        config = getattr(model, "config", None)
        positions = getattr(config, "max_position_embeddings", None) or LATENCY_LENGTH
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        ids = torch.ones(1, min(LATENCY_LENGTH, positions), dtype=torch.long, device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    # -- training ----------------------------------------------------------------------------------------------

    def hard_objective(self, loss: nn.Module | None = None) -> Objective:
        """Return the objective of a model that learns from labels alone.

        Args:
            loss: another hard-label loss than the task's own.

        """
        made = loss if loss is not None else _located(self.hard_loss)()
        return Objective({"hard": Term(Match(_plain(self.outputs), _plain(self.labels)), made)})

    def check_data(self, data: DataModule) -> None:
        """Raise an error where the data is made for another task.

        Raises:
            ConfigError: rows for another head, of several labels, or with numbers instead of classes.

        """
        if data.head is not None and self.head is not None and data.head != self.head:
            choice = f"task={TASK_OF_HEAD[data.head]}, or choose" if data.head in TASK_OF_HEAD else "another task, or"
            raise ConfigError(
                f"Rows of this data are made for {data.head}, and the task is {self.head}. Type {choice} other data."
            )
        if data.multilabel and not self.multilabel:
            raise ConfigError("Rows of this data have several labels. Type task=multilabel.")
        if data.regression != self.regression:
            what, task = ("numbers to predict", "regression") if data.regression else ("classes", "classification")
            raise ConfigError(f"This data has {what}. Type task={task}.")

    # -- scores and predictions --------------------------------------------------------------------------------

    def metrics_for(self, data: DataModule) -> dict[str, Metric]:
        """Return the metrics by name, the main one first; those that need the data module are called with it."""
        given = {name: metric for name, metric in self.metrics.items() if metric is not None}  # null: left out
        if wrong := next((name for name, m in given.items() if not isinstance(m, Metric) and not callable(m)), None):
            kind = type(given[wrong]).__name__
            raise ConfigError(f"'task.metrics.{wrong}' builds a {kind}, and a metric is a torchmetrics.Metric.")
        made = {name: m if isinstance(m, Metric) else m(data) for name, m in given.items()}
        return dict(sorted(made.items(), key=lambda item: self.metric not in score_names(*item)))

    def recorder(self, data: Any) -> BatchMetric | None:
        """Return what records predictions and writes them in the data set's own format; None: nothing is written."""
        return None


TASK_OF_HEAD = {
    "sequence-classification": "classification",
    "token-classification": "tagging",
    "question-answering": "question_answering",
    "masked-lm": "masked_lm",
    "image-classification": "image_classification",
}
"""What is typed for data that is made for a head, as task=NAME."""


def score_names(name: str, metric: Any) -> list[str]:
    """Return the names of the scores that a metric, or its class, gives under a name."""
    return list(getattr(metric, "score_names", ())) or [name]


def _located(loss: type[nn.Module] | str) -> type[nn.Module]:
    from hydra.utils import get_class

    return get_class(loss) if isinstance(loss, str) else loss


def _plain(addresses: str | Sequence[str]) -> str | tuple[str, ...]:
    return addresses if isinstance(addresses, str) else tuple(addresses)
