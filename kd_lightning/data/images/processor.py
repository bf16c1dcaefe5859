"""Image processors of Transformers: what they normalise by, and one for images of our own size and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from kd_lightning.core.errors import DataError
from kd_lightning.data.images.decode import Size

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixel values from 0 to 1."""


def normalisation_of(processor: Any) -> Normalisation:
    """Return what an image processor normalises by; zeros and ones where it does not.

    Raises:
        DataError: if it is no image processor, or does to pixels what this package does not: another scale than from 0
            to 1, or channels in another order.

    Example:
        >>> normalisation_of(make_processor((32, 32), ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))))
        ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

    """
    if not hasattr(processor, "do_normalize"):
        raise DataError(f"Expected an image processor of Transformers but got {type(processor).__name__}.")
    factor, offset = getattr(processor, "rescale_factor", 1 / 255), getattr(processor, "rescale_offset", False)
    scaled = getattr(processor, "do_rescale", True) and abs(255 * (factor or 1 / 255) - 1) < 1e-6 and not offset
    if not scaled or getattr(processor, "do_flip_channel_order", False):
        what = "turns the order of channels round" if scaled else "scales pixels otherwise than from 0 to 1"
        raise DataError(
            f"The model's {type(processor).__name__} {what}, which image data here does not do: choose another model, "
            "or give batches of your own."
        )
    if not processor.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _channels(processor.image_mean), _channels(processor.image_std)


def _channels(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))


def make_processor(size: Size, normalisation: Normalisation) -> Any:
    """Return an image processor that brings images to a size as the data module does, and normalises them.

    Transformers has none that covers a size that is not square and cuts off the rest: images are stretched to such a
    one, which makes the same pixels only of images that have its proportions.

    Args:
        size: height and width.
        normalisation: mean and standard deviation of each channel.

    """
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    mean, std = normalisation
    whole, square = {"height": size[0], "width": size[1]}, size[0] == size[1]
    return CLIPImageProcessorPil(
        size={"shortest_edge": size[0]} if square else whole,
        do_center_crop=square,
        crop_size=whole,
        resample=Image.Resampling.BILINEAR,
        image_mean=list(mean),
        image_std=list(std),
    )
