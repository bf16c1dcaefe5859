"""Data modules, and the parts they are made of: resumable loading, grouping by length, padding."""

from __future__ import annotations

from kd_lightning.data.base import DataModule
from kd_lightning.data.curriculum import Curriculum, CurriculumBatches
from kd_lightning.data.images.augment import Flip, ImageAugmentation, RandomCrop
from kd_lightning.data.images.classification import ImageClassification
from kd_lightning.data.images.colour import ColourJitter, RandAugment
from kd_lightning.data.images.mixing import CutMix, Mixing, Mixup
from kd_lightning.data.loader import Loader
from kd_lightning.data.multi_task import MultiTask
from kd_lightning.data.rows import EpochRows, RowDataModule
from kd_lightning.data.sampler import EvalBatches, TrainBatches
from kd_lightning.data.sourced import SourcedDataModule
from kd_lightning.data.text.alignment import dual_tokenized_rows
from kd_lightning.data.text.augment import Augmentation, Delete, LongReorder, Mask, NGramSample, ShortReorder
from kd_lightning.data.text.augmented_rows import AugmentedRows
from kd_lightning.data.text.classification import TextClassification
from kd_lightning.data.text.language_modelling import LanguageModelling
from kd_lightning.data.text.module import TokenDataModule
from kd_lightning.data.text.padding import DualTokenizedPadding, Padding
from kd_lightning.data.text.question_answering import QuestionAnswering
from kd_lightning.data.text.sequence_labelling import SequenceLabelling
from kd_lightning.data.text.sourced import TextDataModule
from kd_lightning.data.text.synthetic import SyntheticSentiment
from kd_lightning.data.text.tokenizing import build_tokenizer
from kd_lightning.data.text.tokens import DualTokenizedRows, TokenRows

__all__ = [
    "Augmentation",
    "AugmentedRows",
    "ColourJitter",
    "Curriculum",
    "CurriculumBatches",
    "CutMix",
    "DataModule",
    "Delete",
    "DualTokenizedPadding",
    "DualTokenizedRows",
    "EpochRows",
    "EvalBatches",
    "Flip",
    "ImageAugmentation",
    "ImageClassification",
    "LanguageModelling",
    "Loader",
    "LongReorder",
    "Mask",
    "Mixing",
    "Mixup",
    "MultiTask",
    "NGramSample",
    "Padding",
    "QuestionAnswering",
    "RandAugment",
    "RandomCrop",
    "RowDataModule",
    "SequenceLabelling",
    "ShortReorder",
    "SourcedDataModule",
    "SyntheticSentiment",
    "TextClassification",
    "TextDataModule",
    "TokenDataModule",
    "TokenRows",
    "TrainBatches",
    "build_tokenizer",
    "dual_tokenized_rows",
]
