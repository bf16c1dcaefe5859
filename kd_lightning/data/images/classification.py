"""Classification of images, from Parquet files, folders of images per class, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kd_lightning.core.errors import DataError
from kd_lightning.core.hashing import digest
from kd_lightning.core.locks import build_once, cache_root
from kd_lightning.data.images.augment import Augmentations, as_list, describe
from kd_lightning.data.images.batches import ImageBatches, Input
from kd_lightning.data.images.decode import Size, content_of, decode, names_files
from kd_lightning.data.images.mixing import Mixing
from kd_lightning.data.images.mixing import describe as describe_mixing
from kd_lightning.data.images.processor import Normalisation, make_processor, normalisation_of
from kd_lightning.data.images.rows import AugmentedImages
from kd_lightning.data.images.store import ImageStore, write_store
from kd_lightning.data.labelled import LabelledDataModule
from kd_lightning.data.labels import Labels, check_names
from kd_lightning.data.loader import Collate
from kd_lightning.data.sources import Source, check_columns
from kd_lightning.models.hub import load_image_processor

log = logging.getLogger(__name__)

FORMAT = 2  # of decoded images; in every fingerprint


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
        size: height and width, or one number for both: images are scaled until they just cover it, and cropped to it,
            at random in training and at the centre else. None: images must have one size.
        teacher_size: the same for the teacher's images, where it takes others, of the same proportions. Images are kept
            and augmented at the larger of the two sizes, if the first training image has as many pixels; else at
            `size`, and the teacher's are interpolated.
        mean: of each channel, of pixel values from 0 to 1, which becomes 0; None: the processor's, else the training
            images'. Transparency is dropped.
        std: of each channel, which becomes 1; likewise.
        augment: random changes of training images, such as `[RandomCrop(4), Flip()]`.
        mix: mixes training images and their labels, `Mixup(0.2)` or `CutMix()`.
        processor: a Transformers image processor whose mean and deviation count, the student's, instead of `mean` and
            `std`.
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
        if not _alike(self.size, self.teacher_size):
            raise DataError(f"size {self.size} and teacher_size {self.teacher_size} have different proportions.")
        if (mean is None) != (std is None) or (mean is not None and processor is not None):
            raise DataError(
                "Give mean and std, or a processor that has them, or none for those of the training images."
            )
        self.given = (_channels("mean", mean), _channels("std", std)) if mean is not None and std is not None else None
        self.augment = as_list(augment)
        if mix is not None and not isinstance(mix, Mixing):
            raise DataError(f"mix takes kd.data.Mixup(…) or kd.data.CutMix(…), but got {mix!r}.")
        self.mix = mix
        self.processor = processor
        self.cache_dir = cache_dir
        self._teacher_alone = False
        self._files: dict[str, list[str]] = {}

    # -- rows --------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.image, *self.label_columns]

    @property
    def stored_size(self) -> Size | None:
        """The size that decoded images cover: the student's, or the teacher's larger one; None: as they are."""
        if self.size is None or self.teacher_size is None or self.teacher_size < self.size:
            return self.size
        large = all(own >= wanted for own, wanted in zip(self._first_size, self.teacher_size, strict=True))
        return self.teacher_size if large else self.size

    @cached_property
    def _first_size(self) -> Size:
        """Height and width of the first training image, as it is in its file."""
        source = self.sources["train"]
        cell, place = source.table().column(self.image)[0].as_py(), self._place(source, 0)
        height, width, _ = decode(content_of(cell, place, source.folder), place).shape
        return height, width

    def _place(self, source: Source, row: int) -> str:
        return f"{source}, column '{self.image}', row {row}"

    @property
    def cache_key_fields(self) -> tuple[Any, ...]:
        """The settings that decide what is decoded of a table, besides `limit`."""
        return (FORMAT, self.image, self.label, self.num_labels, self.classes, self.stored_size, *self.renamed,
                *self.held_out)  # fmt: skip

    def split_key(self, split: str) -> str:
        """Return a hash of everything that decides a split's rows: of image files that a table names, too."""
        if split not in self._files:
            self._files[split] = [key for source in self._sources(split) for key in self._file_keys(source)]
        key, files = super().split_key(split), self._files[split]
        return digest(key, files) if files else key

    def _file_keys(self, source: Source) -> list[str]:
        """Return hashes of the image files that a table names; of a folder its own identity counts."""
        if source.is_folder:
            return []
        check_columns(table := source.table(), source, [self.image])
        column = table.column(self.image)
        return self._image_keys(column, source) if names_files(column) else []

    def _image_keys(self, column: Any, source: Source) -> list[str]:
        places = (self._place(source, row) for row in range(len(column)))
        contents = (content_of(*one, source.folder) for one in zip(column.to_pylist(), places, strict=True))
        return [hashlib.sha256(content).hexdigest() for content in contents]

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
        places, images, size = [], [], self.stored_size
        for table, source in tables:
            for row, cell in enumerate(table.column(self.image).to_pylist()):
                places.append(cell if isinstance(cell, str) else self._place(source, row))
                images.append(partial(_decoded, cell, places[-1], source.folder, size))
        write_store(folder, images, labels, places.__getitem__ if size is None else None)

    def holdout_keys(self, table: Any) -> list[str]:
        """Return what decides on which side of `holdout` each row is: its image."""
        return self._image_keys(table.column(self.image), self.sources["train"])

    # -- sizes and normalisation -------------------------------------------------------------------------------

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
        if not _alike(self._student_size, self.teacher_size):
            raise DataError(f"Images {self._student_size} and teacher_size {self.teacher_size} differ in proportions.")
        if self.processor is None:
            self.processor = make_processor(self.image_size, self.normalisation())
            self._made_with = (self.processor, self.teacher_processor)

    def for_teacher(self) -> None:
        """Make batches of the teacher's images alone, cropped and augmented as those that it shows the student."""
        self._teacher_alone = self.teacher_size is not None

    @property
    def image_size(self) -> Size:  # type: ignore[override]
        """Height and width of the images of the model that is trained; without `size`, of the first training image."""
        return self.teacher_size if self._teacher_alone and self.teacher_size else self._student_size

    @property
    def _student_size(self) -> Size:
        return self.size or self._first_size

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

    @property
    def saved_processor(self) -> Any:
        """An image processor that makes the student's input of an image; None where Transformers has no such one."""
        height, width = self.image_size
        if self._is_cut and height != width:
            log.warning("No image processor is saved: Transformers has none that cuts out %d×%d.", height, width)
            return None
        return make_processor(self.image_size, self.normalisation())

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
        other = normalisation_of(self.teacher_processor) if self.teacher_processor is not None else None
        sizes = [self.stored_size, self.image_size] if self._teacher_alone else [self.size, self.teacher_size]
        inputs = [*sizes, self.normalisation(), other]
        return digest(super().fingerprint, inputs, self.augmentation)

    @property
    def mixes_labels(self) -> bool:
        """Whether images are mixed, and so their labels."""
        return self.mix is not None

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
        size = self.stored_size or self._student_size
        return AugmentedImages(self.train_rows, size, self.augment, self.mix, self.seed, self.views)

    @property
    def collate(self) -> Collate:
        """What makes a batch of rows."""
        inputs = {"": Input(self.image_size, *self.normalisation())}
        if not self._teacher_alone and (self.teacher_size is not None or self.teacher_processor is not None):
            other = self.teacher_processor
            normalisation = self.normalisation() if other is None else normalisation_of(other)
            inputs = {"student": inputs[""], "teacher": Input(self.teacher_size or self.image_size, *normalisation)}
        marks, size = self.views is not None, self.stored_size or self._student_size
        return ImageBatches(size, inputs, self.num_labels, self.augment, self.mix, marks)


def _decoded(cell: Any, place: str, folder: Path, size: Size | None) -> np.ndarray:
    return decode(content_of(cell, place, folder), place, size)


def _alike(one: Size | None, other: Size | None) -> bool:
    return one is None or other is None or one[0] * other[1] == one[1] * other[0]


def _size(name: str, size: int | Sequence[int] | None) -> Size | None:
    """Return height and width."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{name} is [HEIGHT,WIDTH] in pixels, or one number for both; got {size!r}.")
    return sides[0], sides[1]


def _channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = isinstance(values, Sequence) and len(values) == 3 and all(isinstance(v, int | float) for v in values)
    if not numbers or not all(abs(v) < float("inf") for v in values) or (name == "std" and min(values) <= 0):
        raise DataError(f"{name} has a number for red, green and blue, of pixels from 0 to 1; got {values!r}.")
    return tuple(map(float, values))
