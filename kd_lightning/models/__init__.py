"""Students: smaller models made like a teacher, and a recurrent one for where attention is too slow."""

from kd_lightning.models.bigru import bigru
from kd_lightning.models.bigru_model import (
    BiGRUConfig,
    BiGRUForSequenceClassification,
    BiGRUForTokenClassification,
    BiGRUModel,
    register,
)
from kd_lightning.models.copy_layers import copy_layers
from kd_lightning.models.electra import electra_small
from kd_lightning.models.pretrained import pretrained
from kd_lightning.models.saved import saved
from kd_lightning.models.share_body import share_body
from kd_lightning.models.shrink import shrink
from kd_lightning.models.sizes import t3, t3_small, t4_tiny, t6, t12_nano
from kd_lightning.models.vocabulary import transfer_vocabulary

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
