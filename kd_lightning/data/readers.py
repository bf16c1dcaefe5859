"""Reading files of rows: Parquet, CSV, TSV, JSON Lines, JSON, text; whole as tables, or streamed row by row."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from kd_lightning.core.errors import DataError, closest, hint

log = logging.getLogger(__name__)

PLAIN = (".txt",)
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
SUFFIXES = (*PLAIN, *TABLES)

FORMATS = tuple(suffix.removeprefix(".") for suffix in TABLES)
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What files of images end in, in small letters or capitals."""

Row: TypeAlias = tuple[str, ...]


# -- whole tables -----------------------------------------------------------------------------------------------------


def read_table(place: Path, kind: str | None = None, texts: Sequence[str] = ()) -> Any:
    """Return a file, or a folder with a sub-folder of text files or images per class, as a `pyarrow.Table`.

    A column of CSV and TSV holds whole numbers where all of its values are such, else numbers where all are, else
    text; an empty value is null. Sub-folders become the columns `text` or `image` (the file), and `label`
    (the sub-folder), in the order of the files' names.

    Args:
        place: the file or folder.
        kind: the file's format, of `FORMATS`; None: by its suffix.
        texts: columns of CSV and TSV that are text whatever they hold, and never null.

    Raises:
        DataError: if the file is empty, damaged, or not in UTF-8, or a class of images has none.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "reviews.csv"
        ...     _ = file.write_text("review,stars\\ngood film,5\\n1984,3\\n")
        ...     read_table(file, texts=["review"]).to_pylist()
        [{'review': 'good film', 'stars': 5}, {'review': '1984', 'stars': 3}]

    """
    if place.is_dir():
        return _read_class_folder(place)
    kind = kind or place.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise DataError(f"{place} is of no kind that can be read as a table. {hint(kind, FORMATS)}")
    if not place.stat().st_size:
        raise DataError(f"{place} is empty.")
    if kind == "parquet":
        return _read_parquet(place)
    return _read_json(place) if kind in ("jsonl", "json") else _read_csv(place, kind, texts)


def _read_parquet(file: Path) -> Any:
    from pyarrow import parquet

    with _readable(file, "Parquet"):
        check_names_once(file, parquet.read_schema(file).names)
        table = parquet.read_table(file)
    check_utf8(table, str(file))
    return table


def check_names_once(file: Path, names: Sequence[str]) -> None:
    """Check that no two columns of a table have one name.

    Raises:
        DataError: naming the first that comes twice.

    """
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"{file} has more than one column '{min(twice)}'.")


def _read_csv(file: Path, kind: str, texts: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow import csv

    options = _csv_options(file, kind)
    with _readable(file, kind.upper()):
        names = csv.open_csv(file, **options).schema.names
        check_names_once(file, names)
        strings = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        table = csv.read_csv(file, **options, convert_options=strings)
    for place, name in enumerate(names):
        if name not in texts:
            table = table.set_column(place, name, _typed(table.column(name)))
    return table


def check_utf8(table: Any, name: str) -> None:
    """Raise an error where texts of a table or batch of rows are not UTF-8, which Parquet files may hold.

    Raises:
        DataError: with the first column of which that is so.

    """
    import pyarrow

    for column in table.schema.names:
        try:
            table.column(column).validate(full=True)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{name}, column '{column}' holds what is not UTF-8 text: save it as UTF-8.") from error


def _typed(column: Any) -> Any:
    """Return a column of strings as whole numbers, else as numbers, else as it is; empty ones are null.

    Texts of digits alone that are no such number stay texts: `007` is not `7`, and long ones would be rounded.
    """
    import pyarrow
    from pyarrow import compute

    column = compute.if_else(compute.equal(column, ""), pyarrow.scalar(None, pyarrow.string()), column)
    whole, plain = (
        compute.all(compute.match_substring_regex(column, f"^({digits})$")).as_py()
        for digits in ("-?[0-9]+", "0|-?[1-9][0-9]*")
    )
    try:
        return column if whole and not plain else compute.cast(column, pyarrow.int64() if plain else pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return column


def _read_json(file: Path) -> Any:
    import pyarrow

    records = list(_json_records(file))
    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        try:
            columns[name] = pyarrow.array([record.get(name) for record in records])
        except pyarrow.ArrowException as error:
            raise DataError(f"{file}, column '{name}' holds values of several kinds ({error}).") from error
        except OverflowError as error:
            raise DataError(f"{file}, column '{name}' holds a whole number of more than 64 bits.") from error
    return pyarrow.table(columns)


def class_files(folder: Path) -> list[Path]:
    """Return the files of a folder that has one sub-folder per class: images, or where there are none text files.

    Images are in an order of their own, in which the first ones are of all classes.

    Raises:
        DataError: if some classes have images and another sub-folder has none, or has folders in it.

    """
    subs = _sub_folders(folder)
    inside = {sub: sorted(sub.iterdir()) for sub in subs}
    images = {sub: [f for f in files if f.suffix.lower() in IMAGES and f.is_file()] for sub, files in inside.items()}
    if not any(images.values()):
        return [file for files in inside.values() for file in files if file.suffix == ".txt"]
    for sub, files in images.items():
        if not files:
            raise DataError(f"{sub} is the folder of a class and has no image in it: fill it, or remove it.")
        if deeper := [path for path in inside[sub] if path.is_dir()]:
            raise DataError(f"{deeper[0]} is a folder within that of a class: its images would be left out. Move them.")
        if left := [path for path in inside[sub] if path not in files]:
            log.warning("%s: %d files are left out that are no images, such as %s.", sub, len(left), left[0].name)
    every = [file for files in images.values() for file in files]
    return sorted(every, key=lambda file: hashlib.sha256(str(file.relative_to(folder)).encode()).digest())


def _sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without what systems and tools leave there (`.git`, `__MACOSX`)."""
    return [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.name.startswith((".", "__"))]


def is_class_folder(folder: Path) -> bool:
    """Tell whether a folder has sub-folders with images or text files: one per class."""
    return folder.is_dir() and bool(class_files(folder))


def _read_class_folder(folder: Path) -> Any:
    import pyarrow

    files = class_files(folder)
    labels = [file.parent.name for file in files]
    if files and files[0].suffix.lower() in IMAGES:
        return pyarrow.table({"image": [str(file) for file in files], "label": labels})
    return pyarrow.table({"text": [_text_of(file) for file in files], "label": labels})


def _text_of(file: Path) -> str:
    """Return a text file as it is, but for the line end at its end."""
    for _ in lines_of(file):  # raises the error for what is no text
        pass
    return re.sub(r"\r?\n\Z", "", file.read_bytes().decode("utf-8-sig"))


# -- where they are ---------------------------------------------------------------------------------------------------


def find_place(path: str | Path, root: str | Path | None = None) -> Path:
    """Return a file or folder, or the data set of that name below a folder of data sets.

    Raises:
        DataError: if there is none, with what is near.

    """
    if not str(path):
        raise DataError("The name of a file or folder is empty: type one, or null.")
    here = Path(str(path)).expanduser()
    if here.is_symlink() and not here.exists():
        raise DataError(f"{here} is a link to {here.readlink()}, which is not there.")
    below = Path(str(root)).expanduser() / path if root is not None else here
    for place in (here, below):
        if place.exists():
            return place
    names = [str(near) for near in _neighbours(here)]
    names += [near.name for near in _neighbours(below)] if root is not None else []
    near = closest(str(path), names)
    where = f", nor a data set of that name in {root}" if root is not None else ""
    raise DataError(f"There is no file or folder {path}{where}." + (f" {hint(str(path), near)}" if near else ""))


def _neighbours(place: Path) -> list[Path]:
    return sorted(place.parent.iterdir()) if place.parent.is_dir() else []


def find_splits(place: Path, stems: Mapping[str, str], kind: str | None = None) -> dict[str, Path]:
    """Return where the splits of a file or folder are, by name; `train` is among them.

    A file is the training split. A folder has files such as `train.csv`, or folders such as `train` with a folder of
    text files or images per class, or is such a folder itself: then it is the training split.

    Args:
        place: the file or folder.
        stems: what splits are called there, by the name that they have here.
        kind: the files' format, of `FORMATS`; None: by their suffix.

    Raises:
        DataError: if there is no training split, or a split in two files.

    """
    if place.is_file():
        return {"train": place}
    found = {}
    for split, stem in stems.items():
        files = [file for file in sorted(place.glob(f"{stem}.*")) if file.suffix == f".{kind}" or not kind]
        files = [file for file in files if file.suffix in TABLES]
        if len(files) > 1:
            raise DataError(f"{place} has {' and '.join(file.name for file in files)}: type data.format=NAME for one.")
        if files or is_class_folder(place / stem):
            found[split] = files[0] if files else place / stem
    if not found and is_class_folder(place):
        return {"train": place}
    others = [sub.name for sub in _sub_folders(place) if sub.name not in stems.values() and is_class_folder(sub)]
    if others and "validation" not in found:
        raise DataError(
            f"{place} has a folder '{others[0]}' that is no split: type data.splits.validation={others[0]} to validate "
            "on it, or move it elsewhere."
        )
    if "train" not in found:
        names = [path.name for path in sorted(place.iterdir())]
        looked = f"{stems['train']}.{kind}" if kind else f"{stems['train']}.csv, .tsv, .jsonl, .json or .parquet"
        raise DataError(
            f"{place} has no {looked}, nor folders of text files or images per class. {hint(stems['train'], names)}"
        )
    return found


# -- row by row -------------------------------------------------------------------------------------------------------


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a text file, without the spaces around them; blank ones too.

    Raises:
        DataError: if the file is no text, or not in UTF-8.

    """
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise DataError(f"{file}, line {number} holds a NUL character: this is no text file.")
                yield line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text after line {number}; save it as UTF-8, or leave it out.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error


def column_names(file: Path) -> list[str]:
    """Return the columns of a table; of JSON those of the first record.

    Raises:
        DataError: if the file is damaged.

    """
    return list(_OPENERS[file.suffix](file, None)[0])


def rows_of(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield some columns of a table, row by row; rows where a text is missing (null) are passed over.

    Raises:
        DataError: if a column is missing, a value is no text, or the file is damaged.

    """
    names, records = _OPENERS[file.suffix](file, columns)
    for column in columns:
        if column not in names:
            raise DataError(f"{file} has no column '{column}'. {hint(column, names)}")
    for number, record in enumerate(records):
        values = [record.get(column) for column in columns]
        for column, value in zip(columns, values, strict=True):
            if value is not None and not isinstance(value, str):
                raise DataError(f"{file}, column '{column}', row {number} holds {value!r} where a text should be.")
        if None not in values:
            yield tuple(values)


_Records: TypeAlias = tuple[Sequence[str], Iterator[Mapping[str, Any]]]


def _open_parquet(file: Path, columns: Sequence[str] | None) -> _Records:
    from pyarrow import parquet

    def records(table: Any, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
        with _readable(file, "Parquet"):
            for batch in table.iter_batches(columns=wanted):
                check_utf8(batch, str(file))
                yield from batch.to_pylist()

    with _readable(file, "Parquet"):
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        check_names_once(file, names)
    return names, records(table, [name for name in columns or () if name in names])


def _open_csv(file: Path, columns: Sequence[str] | None) -> _Records:
    import pyarrow
    from pyarrow import csv

    options = _csv_options(file, file.suffix.removeprefix("."))

    def records(wanted: list[str]) -> Iterator[Mapping[str, Any]]:
        with _readable(file, "CSV"):
            convert = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pyarrow.string()), include_columns=wanted)
            for batch in csv.open_csv(file, **options, convert_options=convert) if wanted else ():
                yield from batch.to_pylist()

    with _readable(file, "CSV"):
        names = csv.open_csv(file, **options).schema.names
        check_names_once(file, names)
    return names, records([name for name in columns or () if name in names])


BLOCK = 2**26  # bytes of a CSV file that are read at a time; a row must fit into one


def _csv_options(file: Path, kind: str) -> dict[str, Any]:
    """Return how a CSV or TSV file is read: in TSV quotes are characters like others, and values have no line ends."""
    from pyarrow import csv

    tabs = csv.ParseOptions(delimiter="\t", quote_char=False)
    parse = tabs if kind == "tsv" else csv.ParseOptions(newlines_in_values=True)
    return {
        "parse_options": parse,
        "read_options": csv.ReadOptions(block_size=min(max(file.stat().st_size, 2**20), BLOCK)),
    }


def _open_json(file: Path, columns: Sequence[str] | None) -> _Records:
    records = _json_records(file)
    first = next(records, None)
    if first is None:
        return (), iter(())

    def whole() -> Iterator[Mapping[str, Any]]:
        yield first
        yield from records

    return list(first), whole()


def _json_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file: one per line, or those of one list."""
    lines = enumerate(lines_of(file), start=1)
    for number, line in lines:
        if line.startswith("[") and number == 1:
            rest = "\n".join([line, *(text for _, text in lines)])
            yield from (_record(item, file, f"item {i}") for i, item in enumerate(_parsed(rest, file, "its list")))
        elif line:
            yield _record(_parsed(line, file, f"line {number}"), file, f"line {number}")


def _parsed(text: str, file: Path, place: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=partial(_with_names_once, file, place))
        if "\\u" in text:  # a half of a pair of surrogates can be written so, and is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too many brackets within each other"
        raise DataError(
            f"{file}, {place} is no JSON ({reason}); write one object per line, or one list of objects."
        ) from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(f"{file}, {place} holds half of a character ({half!r}), which is no text.") from error
    return value


def _with_names_once(file: Path, place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, of which Python would keep the last of two values of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}, {place} has more than one value of '{twice}' in an object.")
    return found


def _record(value: Any, file: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{file}, {place} holds {str(value)[:40]!r} where an object with texts should be.")
    return value


@contextmanager
def _readable(file: Path, kind: str) -> Iterator[None]:
    """Turn an error of the reader of a damaged file into a sentence."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise DataError(f"{file} cannot be read ({error.strerror}).") from error
        if re.search("invalid UTF-?8", str(error), re.IGNORECASE):
            raise DataError(f"{file} is not UTF-8 text; save it as UTF-8.") from error
        reason = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
        raise DataError(f"{file} is not a readable {kind} file ({reason}).") from error


_OPENERS: dict[str, Any] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".jsonl": _open_json,
    ".json": _open_json,
}
