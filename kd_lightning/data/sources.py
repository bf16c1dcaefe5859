"""Where rows come from: files, data sets in a folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import DataError, hint
from kd_lightning.core.hashing import digest
from kd_lightning.data.readers import TABLES, class_files, find_place, read_table

log = logging.getLogger(__name__)

HUGGINGFACE = b"huggingface"
"""Where the `datasets` library notes in a table what its columns are."""


@dataclass(frozen=True)
class Source:
    """One split of a data set.

    Args:
        name: the data set's name; below `root`, its folder.
        stem: the split's name there: `train` for `train.parquet` or the hub's split.
        root: folder of data sets, or None for the hub.
        hub: the data set's name on the hub.
        subset: the hub's configuration name, such as `sst2` of `nyu-mll/glue`.
        split: what the split is used for, for errors; `extra` for what is trained on beside it; None: the same.
        rename: what columns are called here that have another name there, where they have it.
        path: a file, or a folder of text files per class, instead of `root` and `hub`; see `readers.read_table`.
        format: the file's format; None: by its suffix.

    """

    name: str
    stem: str
    root: str | Path | None = None
    hub: str | None = None
    subset: str | None = None
    split: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict, hash=False)
    path: Path | None = None
    format: str | None = None

    def __str__(self) -> str:
        return str(self._file) if self._is_local else f"{self.hub}:{self.stem}"

    @property
    def _is_local(self) -> bool:
        return self.path is not None or self.root is not None

    @property
    def _file(self) -> Path:
        return self.path or Path(str(self.root)).expanduser() / self.name / f"{self.stem}.parquet"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files per class."""
        return self.path is not None and self.path.is_dir()

    @property
    def file_names(self) -> list[str]:
        """Of a folder, the files that its rows are from, in the order of the rows."""
        assert self.path is not None, "a folder is given by its path"
        return [str(file.relative_to(self.path)) for file in class_files(self.path)]

    @property
    def folder(self) -> Path:
        """What relative paths in its table are below: its file's folder; on the hub the working folder."""
        return self._file.parent if self._is_local else Path()

    def is_same(self, other: Source) -> bool:
        """Tell whether both are the very same file, or the same split on the hub."""
        if not self._is_local or not other._is_local:
            own, their = ((one.root, one.hub, one.subset, one.stem) for one in (self, other))
            return own == their
        return self._file.resolve() == other._file.resolve()

    def identity(self, columns: Sequence[str]) -> str:
        """Return a hash of the contents: of the file, or of the columns of what the hub gives.

        Raises:
            DataError: if there is no such data.

        """
        if not self._is_local:
            table = self.table()
            known = [column for column in columns if column in table.column_names]
            names = [class_names(table, column) for column in known]
            return hashlib.sha256(repr([table.select(known).to_pydict(), names]).encode()).hexdigest()
        if self.path is None:
            return _hash(self._existing())
        if self.path.is_dir():
            return digest([(name, _hash(self.path / name)) for name in self.file_names])
        return digest(self.format or self.path.suffix, _hash(self.path))

    def table(self, texts: Sequence[str] = ()) -> Any:
        """Return all rows as a `pyarrow.Table`.

        Args:
            texts: columns that are text, whatever they look like in a CSV file.

        Raises:
            DataError: if the folder, the file or the network is missing, or the file is damaged.

        """
        if self.path is not None:
            there = {other: name for other, name in self.rename.items() if name in texts}
            table = read_table(self.path, self.format, [*texts, *there])
        else:
            table = self._from_hub() if self.root is None else self._from_file()
        here = set(table.column_names)
        names = {other: name for other, name in self.rename.items() if other in here and name not in here}
        return _renamed(table, names) if names else table

    def _from_file(self) -> Any:
        return read_table(self._existing(), "parquet")

    def _existing(self) -> Path:
        """Return the file, or say what is missing and what is there instead."""
        file, root = self._file, Path(str(self.root)).expanduser()
        if not root.is_dir():
            raise DataError(f"There is no data folder {root}; give data.root=DIR, where DIR/{self.name} has the files.")
        if not file.parent.is_dir():
            names = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise DataError(f"There is no data set '{self.name}' in {root}. {hint(self.name, names)}")
        if file.is_symlink() and not file.exists():
            raise DataError(f"{file} is a link to {file.readlink()}, which is not there.")
        if file.is_dir():
            raise DataError(f"{file} is a folder, and should be a Parquet file.")
        if not file.is_file():
            names = sorted(path.stem for path in file.parent.glob("*.parquet"))
            raise DataError(f"There is no {file.name} in {file.parent}. {self._instead(names)}")
        return file

    def _instead(self, names: Sequence[str]) -> str:
        """Say which of the files that are there could serve as this split."""
        split = self.split or self.stem
        if split == "extra":
            return f"{hint(self.stem, names)} Type data.extra=[{self.name}/SPLIT] to take another."
        longer = next((name for name in names if name.startswith(self.stem)), None)
        held_out = {"validation", "test"} <= set(names)
        if longer is not None:
            return f"Type data.splits.{split}={longer} to take that file."
        if split == "train" and held_out:
            return "Type data.splits.train=validation data.splits.validation=test to make do with those."
        if split == "validation" and "test" in names:
            return "Type data.splits.validation=test to evaluate on that."
        return hint(self.stem, names)

    def _from_hub(self) -> Any:
        if self.hub is None:
            raise DataError(
                f"Data set '{self.name}' is not on the hub; give data.root=DIR, with DIR/{self.name} in it, or "
                "data.path=FILE."
            )
        import datasets

        try:
            return datasets.load_dataset(self.hub, self.subset, split=self.stem).with_format("arrow")[:]
        except Exception as error:  # the hub's client raises a dozen unrelated kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"Cannot get '{self.hub}' from the Hugging Face hub ({reason}); give data.root=DIR, a folder with"
                f" {self.name}/{self.stem}.parquet in it."
            ) from error


def _hash(file: Path) -> str:
    state = file.stat()
    return _hash_of(file, state.st_size, state.st_mtime_ns)


@cache  # a run asks for the same file's hash again and again
def _hash_of(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _renamed(table: Any, names: Mapping[str, str]) -> Any:
    """Return a table with other names for some columns, which keep their `datasets` features."""
    known = table.schema.metadata or {}
    renamed = table.rename_columns([names.get(name, name) for name in table.column_names])
    if HUGGINGFACE not in known:
        return renamed.replace_schema_metadata(known)
    from datasets import Features

    features = Features.from_arrow_schema(table.schema)
    own = Features({names.get(name, name): feature for name, feature in features.items()})
    return renamed.replace_schema_metadata(known | own.arrow_schema.metadata)


def class_names(table: Any, column: str) -> list[str] | None:
    """Return the names behind the numbers of a column (or of its lists), where a table has them.

    Tables from the hub have them, and files that the `datasets` library wrote.
    """
    if HUGGINGFACE not in (table.schema.metadata or {}):
        return None
    from datasets import Features

    feature = Features.from_arrow_schema(table.schema).get(column)
    return getattr(getattr(feature, "feature", feature), "names", None)


def check_columns(table: Any, source: Source, columns: Sequence[str]) -> None:
    """Check that a `pyarrow.Table` has rows, and the columns that are to be read.

    Raises:
        DataError: if it has not, with the column that is most like the missing one.

    """
    if table.num_rows == 0:
        raise DataError(f"{source} has no rows.")
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"{source} has no column '{column}'. {hint(column, table.column_names)}")


def texts_of(table: Any, source: Source, columns: Sequence[str]) -> list[list[str]]:
    """Return one list of texts per column.

    Raises:
        DataError: if a value is no text.

    """
    return [_texts(table, source, column) for column in columns]


def _texts(table: Any, source: Source, column: str) -> list[str]:
    texts = table.column(column).to_pylist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{source}, column '{column}', row {row} holds {text!r} where a text should be.")
    return texts


def extra_source(name: str, root: str | Path | None = None, hubs: Mapping[str, Any] | None = None) -> Source:
    """Return where an extra data set is.

    Args:
        name: a file, `DIR/FILE.parquet` or of another of `readers.FORMATS`; or a data set below the root or on the hub,
            `NAME/SPLIT` or `NAME`. NAME alone is its `train` split or, below a root that has none, its `validation`
            split.
        root: folder of data sets, or None for the hub.
        hubs: where data sets are on the hub: by name, the arguments `hub` and `subset` of `Source`.

    Raises:
        DataError: if its name on the hub is not known.

    Example:
        >>> str(extra_source("drcd/test", "data")), str(extra_source("more/news.parquet").stem)
        ('data/drcd/test.parquet', 'news')

    """
    if name.endswith(".parquet"):
        file = Path(name).expanduser().absolute()
        return Source(file.parent.name, file.stem, file.parent.parent, split="extra")
    if Path(name).suffix in TABLES:
        file = find_place(name)
        return Source(file.parent.name, file.stem, split="extra", path=file.absolute())
    if Path(name).is_absolute() or not name:
        raise DataError(f"data.extra names '{name}', which is no data set and no file of rows. {hint(name, TABLES)}")
    folder, _, stem = name.partition("/")
    if root is not None:
        return Source(folder, stem or _standing_in(Path(root).expanduser() / folder), root, split="extra")
    if folder not in (hubs or {}):
        raise DataError(
            f"It is not known where on the hub the extra data set '{folder}' is: give data.root=DIR, with DIR/{folder} "
            f"in it, the path of a Parquet file, or data.extra_hubs. {hint(folder, hubs or {})}"
        )
    return Source(folder, stem or "train", None, split="extra", **hubs[folder])  # type: ignore[index]


def _standing_in(folder: Path) -> str:
    """Return `train`, or `validation` where there is that alone."""
    if (folder / "train.parquet").is_file() or not (folder / "validation.parquet").is_file():
        return "train"
    _say(folder)
    return "validation"


@cache  # a run makes several data modules of one configuration
def _say(folder: Path) -> None:
    log.warning("Extra data: %s has no train.parquet, so its validation.parquet is trained on.", folder)
