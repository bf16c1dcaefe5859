"""Students: smaller models built like a teacher, pretrained or saved ones, and a recurrent one."""

from kd_lightning.models.bigru import (
    BiGRUConfig,
    BiGRUForSequenceClassification,
    BiGRUForTokenClassification,
    BiGRUModel,
    bigru,
    register,
)
from kd_lightning.models.cifar_resnet import CifarResNet, cifar_resnet, resnet8x4, resnet32x4
from kd_lightning.models.copy_layers import copy_layers
from kd_lightning.models.copy_stages import copy_stages
from kd_lightning.models.pretrained import pretrained, saved
from kd_lightning.models.share_body import share_body
from kd_lightning.models.shrink import shrink
from kd_lightning.models.students import electra_small, t3, t3_small, t4_tiny, t6, t12_nano
from kd_lightning.models.vision import deit_tiny, vision_student
from kd_lightning.models.vocabulary import transfer_vocabulary

__all__ = [
    "BiGRUConfig",
    "BiGRUForSequenceClassification",
    "BiGRUForTokenClassification",
    "BiGRUModel",
    "CifarResNet",
    "bigru",
    "cifar_resnet",
    "copy_layers",
    "copy_stages",
    "deit_tiny",
    "electra_small",
    "pretrained",
    "register",
    "resnet8x4",
    "resnet32x4",
    "saved",
    "share_body",
    "shrink",
    "t3",
    "t3_small",
    "t4_tiny",
    "t6",
    "t12_nano",
    "transfer_vocabulary",
    "vision_student",
]
