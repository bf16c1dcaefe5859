"""Students: smaller models made like a teacher, and a recurrent one for where attention is too slow."""

from kd_lightning.students.bigru_model import (
    BiGRUConfig,
    BiGRUForSequenceClassification,
    BiGRUForTokenClassification,
    BiGRUModel,
    register,
)
from kd_lightning.students.copying import copy_layers
from kd_lightning.students.electra import electra_small
from kd_lightning.students.heads import share_body
from kd_lightning.students.recurrent_student import bigru
from kd_lightning.students.saved import saved
from kd_lightning.students.shrinking import shrink
from kd_lightning.students.sizes import t3, t3_small, t4_tiny, t6, t12_nano
from kd_lightning.students.vocabulary import transfer_vocabulary
from kd_lightning.students.whole import pretrained

__all__ = [
    "BiGRUConfig",
    "BiGRUForSequenceClassification",
    "BiGRUForTokenClassification",
    "BiGRUModel",
    "bigru",
    "copy_layers",
    "electra_small",
    "pretrained",
    "register",
    "saved",
    "share_body",
    "shrink",
    "t3",
    "t3_small",
    "t4_tiny",
    "t6",
    "t12_nano",
    "transfer_vocabulary",
]
