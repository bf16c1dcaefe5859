"""Classification of images: one class each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from kd_lightning.models.hub import load_image_processor
from kd_lightning.tasks.text_classification import ClassificationTask

if TYPE_CHECKING:
    from kd_lightning.data import DataModule

log = logging.getLogger(__name__)

SIZE = 224
"""Height and width of the example input where neither data nor model tell them."""

TOP = 5
"""How many classes a label may be among to count in the second accuracy, `top5`."""


class ImageClassificationTask(ClassificationTask):
    """One class per image: logits (B, C) against labels (B,).

    Example:
        >>> task = ImageClassificationTask("accuracy")
        >>> task.example_input(nn.Conv2d(3, 8, 3))["pixel_values"].shape
        torch.Size([1, 3, 224, 224])

    """

    head = "image-classification"

    def saved_processor(self, folder: Path) -> Any:
        """Return the image processor that was saved with a model, None where there is none."""
        if (folder / "preprocessor_config.json").is_file():
            return load_image_processor(folder)
        if (folder / "config.json").is_file():  # a Transformers model, which was made for one size, mean and deviation
            log.warning(
                "There is no image processor in %s (preprocessor_config.json): its model gets images as the data "
                "makes them.",
                folder,
            )
        return None

    def example_input(
        self, model: nn.Module, data: DataModule | None = None, teacher: bool = False
    ) -> Mapping[str, Tensor]:
        """Return one black image for a model, on its device, of the data's size, else of the model's, else of 224×224.

        Args:
            model: a model that takes `pixel_values`.
            data: tells the size of images.
            teacher: whether the model is the teacher, whose images may have another size.

        """
        config = getattr(model, "config", None)
        known = None if data is None else data.input_options(teacher).get("image_size")
        size = known or getattr(config, "image_size", None) or SIZE
        height, width = (size, size) if isinstance(size, int) else size
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return {"pixel_values": torch.zeros(1, getattr(config, "num_channels", 3), height, width, device=device)}

    def metrics_for(self, data: DataModule) -> dict[str, Metric]:
        """Return the metrics by name, the main one first, and `top5` where there are more than five classes."""
        made = super().metrics_for(data)
        if data.num_labels is not None and data.num_labels > TOP and "top5" not in made:
            made["top5"] = MulticlassAccuracy(data.num_labels, top_k=TOP, average="micro")
        return made
