"""The small data set and the commands of the command's own tests."""

from __future__ import annotations

from ..cli.conftest import environment, films_root, many, on_films, rows_writer

__all__ = ["environment", "films_root", "many", "on_films", "rows_writer"]
