"""Data modules, and the parts they are made of: resumable loading, grouping by length, padding."""

from __future__ import annotations

from kd_lightning.data.alignment import dual_tokenized_rows
from kd_lightning.data.answering.question_answering import QuestionAnswering
from kd_lightning.data.augment import (
    Augmentation,
    AugmentedRows,
    Delete,
    LongReorder,
    Mask,
    NGramSample,
    ShortReorder,
)
from kd_lightning.data.base import TokenDataModule
from kd_lightning.data.classification.text_classification import TextClassification
from kd_lightning.data.dual_tokenized import DualTokenizedRows
from kd_lightning.data.labelling.sequence_labelling import SequenceLabelling
from kd_lightning.data.language.language_modelling import LanguageModelling
from kd_lightning.data.loader import Loader
from kd_lightning.data.multi_task import MultiTask
from kd_lightning.data.padding import DualTokenizedPadding, Padding
from kd_lightning.data.sampler import EvalBatches, TrainBatches
from kd_lightning.data.synthetic import SyntheticSentiment
from kd_lightning.data.tokens import TokenRows
from kd_lightning.data.vocabulary import build_tokenizer

__all__ = [
    "Augmentation",
    "AugmentedRows",
    "Delete",
    "DualTokenizedPadding",
    "DualTokenizedRows",
    "EvalBatches",
    "LanguageModelling",
    "Loader",
    "LongReorder",
    "Mask",
    "MultiTask",
    "NGramSample",
    "Padding",
    "QuestionAnswering",
    "SequenceLabelling",
    "ShortReorder",
    "SyntheticSentiment",
    "TextClassification",
    "TokenDataModule",
    "TokenRows",
    "TrainBatches",
    "build_tokenizer",
    "dual_tokenized_rows",
]
