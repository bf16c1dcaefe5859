"""Tasks: one object each says which head models get, what goes in and out, and how that is trained and evaluated."""

from kd_lightning.tasks.base import Task
from kd_lightning.tasks.image_classification import ImageClassificationTask
from kd_lightning.tasks.masked_lm import MaskedLMTask
from kd_lightning.tasks.question_answering import QuestionAnsweringTask
from kd_lightning.tasks.text_classification import (
    ClassificationTask,
    MultilabelTask,
    RegressionTask,
)
from kd_lightning.tasks.token_classification import TokenClassificationTask

__all__ = [
    "ClassificationTask",
    "ImageClassificationTask",
    "MaskedLMTask",
    "MultilabelTask",
    "QuestionAnsweringTask",
    "RegressionTask",
    "Task",
    "TokenClassificationTask",
]
