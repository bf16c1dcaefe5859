"""Students: smaller models built like a teacher, pretrained or saved ones, a recurrent one, networks for images."""

from kd_lightning.models.bigru import (
    BiGRUConfig,
    BiGRUForSequenceClassification,
    BiGRUForTokenClassification,
    BiGRUModel,
    bigru,
    register,
)
from kd_lightning.models.cifar.mobilenet_v2 import mobilenet_v2
from kd_lightning.models.cifar.preactivation import Preactivation
from kd_lightning.models.cifar.resnet import CifarResNet, cifar_resnet, resnet8x4, resnet32x4
from kd_lightning.models.cifar.resnet50 import cifar_resnet50
from kd_lightning.models.cifar.shufflenet_v1 import shufflenet_v1
from kd_lightning.models.cifar.shufflenet_v2 import shufflenet_v2
from kd_lightning.models.cifar.vgg import vgg
from kd_lightning.models.cifar.wide_resnet import wide_resnet
from kd_lightning.models.copy_layers import copy_layers
from kd_lightning.models.copy_stages import copy_stages
from kd_lightning.models.early_exit import early_exit
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
    "Preactivation",
    "bigru",
    "cifar_resnet",
    "cifar_resnet50",
    "copy_layers",
    "copy_stages",
    "deit_tiny",
    "early_exit",
    "electra_small",
    "mobilenet_v2",
    "pretrained",
    "register",
    "resnet8x4",
    "resnet32x4",
    "saved",
    "share_body",
    "shrink",
    "shufflenet_v1",
    "shufflenet_v2",
    "t3",
    "t3_small",
    "t4_tiny",
    "t6",
    "t12_nano",
    "transfer_vocabulary",
    "vgg",
    "vision_student",
    "wide_resnet",
]
