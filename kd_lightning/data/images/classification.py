"""Classification of images, from Parquet files, folders of images per class, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data.images.augment import Augmentations, as_list, describe
from kd_lightning.data.images.batches import ImageBatches, Input
from kd_lightning.data.images.decode import Size, decode, encoded
from kd_lightning.data.images.mixing import Mixing
from kd_lightning.data.images.mixing import describe as describe_mixing
from kd_lightning.data.images.processor import Normalisation, make_processor, normalisation_of
from kd_lightning.data.images.rows import AugmentedImages
from kd_lightning.data.images.store import ImageStore, write_store
from kd_lightning.data.labelled import LabelledDataModule
from kd_lightning.data.labels import Labels, check_names
from kd_lightning.data.loader import Collate
from kd_lightning.models.hub import load_image_processor

log = logging.getLogger(__name__)

FORMAT = 1  # of decoded images; in every fingerprint


class ImageClassification(LabelledDataModule):
    """A data set of images with one class each.

    Images are decoded once and kept under a fingerprint of the data and the size; later runs and other processes map
    the same file. A batch has `pixel_values` (rows, 3, height, width) float32, normalised; `labels` (rows,), or for
    mixed images probabilities (rows, classes); `sample_id` (rows,). Where the teacher takes another size or
    normalisation, `pixel_values` are in two parts, `student` and `teacher`: the same crop, resampled.

    Args:
        name: the data set's name; with `root`, its folder.
        image: the column with the image: bytes, or `{bytes, path}`.
        label: the column with the class: an integer from 0, or a name. Of folders of images it is the folder's name.
        num_labels: number of classes; None: as many as `labels`, else those of the training rows.
        labels: what the classes are called, in the order of their numbers; the column may then hold names.
        size: height and width, or one number for both: images are scaled until they just cover it; what juts out is cut
            off, at random in training and evenly else. None: images must have one size.
        teacher_size: the same for the teacher's images, where it takes others. What is kept is the larger of the two.
        mean: of each channel, of pixel values from 0 to 1, which becomes 0; None: the processor's, else the training
            images'.
        std: of each channel, which becomes 1; likewise.
        augment: random changes of training images, such as `[RandomCrop(4), Flip()]`.
        mix: mixes training images and their labels, `Mixup(0.2)` or `CutMix()`.
        processor: a Transformers image processor whose mean and deviation count, the student's.
        cache_dir: where decoded images are kept, in `data/`; None for `$KD_CACHE`, else `~/.cache/kd_lightning`.
        loading: further arguments of `SourcedDataModule` (where rows come from) and `RowDataModule` (how batches are
            made).

    Raises:
        DataError: at construction if settings contradict each other; in `setup` if data is missing or does not fit.

    Example:
        >>> data = ImageClassification("cifar10", root="/nowhere", num_labels=10, size=32)
        >>> data.num_labels, data.image_size, data.sizes
        (10, (32, 32), {})

    """

    head: ClassVar[str | None] = "image-classification"

    augments_labelled: ClassVar[bool] = True

    needs_processor: ClassVar[bool] = True  # type: ignore[misc]

    def __init__(
        self,
        name: str,
        image: str = "image",
        label: str = "label",
        num_labels: int | None = None,
        *,
        labels: Sequence[str] | None = None,
        size: int | Sequence[int] | None = None,
        teacher_size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augmentations = None,
        mix: Mixing | None = None,
        processor: Any = None,
        cache_dir: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(name=name, **loading)
        self.image = image
        self.label = label
        names = tuple(labels) if labels is not None else None
        if names is not None and num_labels not in (None, len(names)):
            raise DataError(f"labels names {len(names)} classes, but num_labels={num_labels}.")
        if count := num_labels or len(names or ()):
            self.known_labels = Labels(label, count, names)
        self.size = _size("size", size)
        self.teacher_size = _size("teacher_size", teacher_size)
        if (mean is None) != (std is None):
            raise DataError("mean and std go together: give both, or neither for those of the training images.")
        self.given = (_channels("mean", mean), _channels("std", std)) if mean is not None and std is not None else None
        self.augment = as_list(augment)
        if mix is not None and not isinstance(mix, Mixing):
            raise DataError(f"mix takes kd.data.Mixup(…) or kd.data.CutMix(…), but got {mix!r}.")
        self.mix = mix
        self.processor = processor
        self.cache_dir = cache_dir

    # -- rows --------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.image, *self.label_columns]

    @property
    def stored_size(self) -> Size | None:
        """The size that decoded images cover: the larger of the two models'; None: as they are."""
        if self.size is None:
            return None
        return max(self.size[0], (self.teacher_size or self.size)[0]), max(
            self.size[1], (self.teacher_size or self.size)[1]
        )

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what is decoded of a table, besides `limit`."""
        return (FORMAT, self.image, self.label, self.num_labels, self.classes, self.stored_size, *self.renamed,
                *self.held_out)  # fmt: skip

    def make_rows(self, split: str) -> ImageStore:
        """Return a split's decoded images from the cache, after putting them there if need be."""
        folder = cache_root(self.cache_dir) / "data" / f"{self.name}-{split}-{self.split_key(split)}"
        built = build_once(folder, lambda scratch: self._decode(split, scratch))
        rows = ImageStore(folder)
        log.info("%s %s: %d images, %s %s.", self.name, split, len(rows), "decoded into" if built else "reused", folder)
        return rows

    def _decode(self, split: str, folder: Path) -> None:
        tables = self.tables(split)
        check_names(self.classes or (), self.sources["train"])
        labels = np.concatenate(self.labels_of(tables))
        places = [
            f"{source}, column '{self.image}', row {row}" for table, source in tables for row in range(table.num_rows)
        ]
        cells = [cell for table, _ in tables for cell in table.column(self.image).to_pylist()]
        images = [partial(_decoded, cell, place, self.stored_size) for cell, place in zip(cells, places, strict=True)]
        write_store(folder, images, labels, places.__getitem__ if self.stored_size is None else None)

    def holdout_keys(self, table: Any) -> list[str]:
        """Return what decides on which side of `holdout` each row is: its image."""
        contents = (encoded(cell, f"column '{self.image}'") for cell in table.column(self.image).to_pylist())
        files = (content if isinstance(content, bytes) else Path(content).read_bytes() for content in contents)
        return [hashlib.sha256(content).hexdigest() for content in files]

    # -- what models are shown ---------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Decode all splits, or find them decoded, and make an image processor where none was given.

        Raises:
            DataError: if data is missing or damaged, or the splits' images differ in size.

        """
        super().setup(stage)
        if self.stored_size is None:
            shapes = {split: tuple(map(int, rows.shapes[0])) for split, rows in self._rows.items()}
            if len(set(shapes.values())) > 1:
                raise DataError(
                    f"The splits' images have different sizes: {shapes}. Give them one by data.size=[HEIGHT,WIDTH]."
                )
        if self.processor is None:
            self.processor = make_processor(self.image_size or (1, 1), self.normalisation())
            self._made_with = (self.processor, self.teacher_processor)

    @property
    def image_size(self) -> Size | None:  # type: ignore[override]
        """Height and width of the student's images; without `size` they are known after `setup`."""
        if self.size is not None or not self._rows:
            return self.size
        height, width = self._rows["train"].shapes[0]
        return int(height), int(width)

    @property
    def teacher_image_size(self) -> Size | None:  # type: ignore[override]
        """The same for the teacher's, where they differ from the student's."""
        return self.teacher_size

    def normalisation(self) -> Normalisation:
        """Return mean and deviation of the student's images: those given, the processor's, or the training images'."""
        if self.given is not None:
            return self.given
        if self.processor is not None:
            return normalisation_of(self.processor)
        statistics = self.rows("train").statistics
        return tuple(statistics["mean"]), tuple(max(value, 1e-6) for value in statistics["std"])

    def load_processor(self, name: str) -> Any:
        """Return the image processor of a model on the hub or in a folder, or for `train` one of the training images.

        Raises:
            ConfigError: if there is none.

        """
        if name != "train":
            return load_image_processor(name)
        self.setup()
        return self.processor

    def set_processors(self, teacher: Any) -> None:
        """Use the teacher's processor: for the student too, unless this data has another mean and deviation for it."""
        if self.given is None:
            super().set_processors(teacher)
        elif teacher is not None and normalisation_of(teacher) != self.given:
            self.teacher_processor = teacher

    def interchangeable(self, one: Any, other: Any) -> bool:
        """Return whether two image processors normalise alike."""
        return normalisation_of(one) == normalisation_of(other)

    # -- batches -----------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of all that is done to it; batch size and order do not count."""
        theirs = normalisation_of(self.teacher_processor) if self.teacher_processor is not None else None
        shown = [self.size, self.teacher_size, self.normalisation(), theirs]
        return digest(super().fingerprint, shown, self.augmentation)

    @property
    def varies(self) -> bool:
        """Whether training rows differ from view to view."""
        return bool(self.augment) or self.mix is not None or self._is_cut

    @property
    def augmentation(self) -> Any:
        """What changes training images, as JSON-like settings."""
        return [describe(self.augment), describe_mixing(self.mix)] if self.augment or self.mix is not None else None

    @property
    def _is_cut(self) -> bool:
        """Whether windows are cut out of stored images, at random in training."""
        return self.stored_size is not None and bool((self.rows("train").shapes != self.stored_size).any())

    def train_dataset(self) -> Any:
        """Return the training rows as a view has them."""
        if not self.varies:
            return self.train_rows
        size = self.stored_size or self.image_size
        assert size is not None, "known after setup"
        return AugmentedImages(self.train_rows, size, self.augment, self.mix, self.seed, self.views)

    @property
    def collate(self) -> Collate:
        """What makes a batch of rows."""
        size = self.image_size
        assert size is not None, "known after setup"
        inputs = {"": Input(size, *self.normalisation())}
        if self.teacher_size is not None or self.teacher_processor is not None:
            theirs = (
                self.normalisation() if self.teacher_processor is None else normalisation_of(self.teacher_processor)
            )
            inputs = {"student": inputs[""], "teacher": Input(self.teacher_size or size, *theirs)}
        marks = self.views is not None
        return ImageBatches(self.stored_size or size, inputs, self.num_labels, self.augment, self.mix, marks)


def _decoded(cell: Any, place: str, size: Size | None) -> np.ndarray:
    content = encoded(cell, place)
    return decode(content, place if isinstance(content, bytes) else content, size)


def _size(name: str, size: int | Sequence[int] | None) -> Size | None:
    """Return height and width."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError(f"{name} is [HEIGHT,WIDTH] in pixels, or one number for both; got {size!r}.")
    return sides[0], sides[1]


def _channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != 3 or not all(isinstance(v, int | float) for v in values) or (name == "std" and min(values) <= 0):
        raise DataError(f"{name} has a number for red, green and blue, of pixels from 0 to 1; got {list(values)!r}.")
    return tuple(map(float, values))
