"""Reading one file of texts, whatever its format, a little at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from kd_lightning.core.errors import DataError, hint

PLAIN = (".txt",)
TABLES = (".parquet", ".csv", ".jsonl", ".json")
SUFFIXES = (*PLAIN, *TABLES)

Row: TypeAlias = tuple[str, ...]


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a text file, without the spaces around them; blank ones too.

    Raises:
        DataError: the file is no text, or not in UTF-8.

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
        DataError: the file is damaged.

    """
    return list(_OPENERS[file.suffix](file, None)[0])


def rows_of(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield some columns of a table, row by row; rows where a text is missing (null) are passed over.

    Raises:
        DataError: a missing column, a value that is no text, or a damaged file.

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
                yield from batch.to_pylist()

    with _readable(file, "Parquet"):
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
    return names, records(table, [name for name in columns or () if name in names])


def _open_csv(file: Path, columns: Sequence[str] | None) -> _Records:
    import pyarrow
    from pyarrow import csv

    def opened(**convert: Any) -> Any:
        options = csv.ConvertOptions(**convert)
        return csv.open_csv(file, convert_options=options, parse_options=csv.ParseOptions(newlines_in_values=True))

    def records(wanted: list[str]) -> Iterator[Mapping[str, Any]]:
        with _readable(file, "CSV"):
            types = dict.fromkeys(wanted, pyarrow.string())
            for batch in opened(column_types=types, include_columns=wanted) if wanted else ():
                yield from batch.to_pylist()

    with _readable(file, "CSV"):
        names = opened().schema.names
    return names, records([name for name in columns or () if name in names])


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
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, {place} is no JSON ({error.msg}); write one object per line, or one list of objects."
        ) from error


def _record(value: Any, file: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{file}, {place} holds {str(value)[:40]!r} where an object with texts should be.")
    return value


@contextmanager
def _readable(file: Path, kind: str) -> Iterator[None]:
    """Turn what a reader says of a damaged file into a sentence."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["nothing said"])[0].rstrip(".")
        raise DataError(f"{file} is not a readable {kind} file ({reason}).") from error


_OPENERS: dict[str, Any] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".jsonl": _open_json,
    ".json": _open_json,
}
