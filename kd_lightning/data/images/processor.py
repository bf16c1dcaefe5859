"""Image processors of Transformers: what they normalise by, and one for images of our own size and statistics."""

from __future__ import annotations

from typing import Any, TypeAlias

from kd_lightning.data.images.decode import Size

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixel values from 0 to 1."""


def normalisation_of(processor: Any) -> Normalisation:
    """Return what an image processor normalises by; zeros and ones where it does not.

    Example:
        >>> normalisation_of(make_processor((32, 32), ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))))
        ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

    """
    if not getattr(processor, "do_normalize", False):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(map(float, processor.image_mean)), tuple(map(float, processor.image_std))


def make_processor(size: Size, normalisation: Normalisation) -> Any:
    """Return an image processor that brings any image to a size as the data module does, and normalises it.

    Args:
        size: height and width.
        normalisation: mean and standard deviation of each channel.

    """
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    mean, std = normalisation
    return CLIPImageProcessorPil(
        size={"shortest_edge": min(size)},
        crop_size={"height": size[0], "width": size[1]},
        resample=Image.Resampling.BILINEAR,
        image_mean=list(mean),
        image_std=list(std),
    )
