"""A CSV logger whose file a resumed run continues: the rows of a run that was never killed, each once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning.core.errors import DamagedError
from kd_lightning.core.files import replacing, sync
from kd_lightning.core.unwritable import explained


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger with one file, `NAME/version_0/metrics.csv`, however often a run is resumed.

    `LastCheckpoint` notes in a checkpoint how many rows there are, and a resumed run goes on after these. Without that
    callback a run starts a new file.

    Args:
        save_dir: the folder.
        name: of the folder in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     logger = ResumableCSVLogger(folder)
        ...     logger.log_metrics({"loss": 0.5}, step=0)
        ...     logger.save()
        ...     logger.rows, Path(logger.log_dir, "metrics.csv").read_text()
        (1, 'loss,step\\n0.5,0\\n')

    """

    def __init__(self, save_dir: str | Path, name: str = "csv") -> None:
        super().__init__(save_dir, name, version=0)

    @property
    def experiment(self) -> Any:
        """The writer of the file; on other ranks than the first one nothing."""
        if self._experiment is None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self._experiment = Rows(self.log_dir)
        return self._experiment

    @property
    def rows(self) -> int:
        """How many rows were logged."""
        return self.experiment.rows + len(self.experiment.metrics)

    @rank_zero_only
    def hold(self) -> None:
        """Keep in memory what is logged until `go_on` tells after which row it comes."""
        self.experiment.held = True

    @rank_zero_only
    def go_on(self, rows: int | None) -> None:
        """Continue the file after its first `rows` rows, or after all of them."""
        self.experiment.go_on(rows)

    @rank_zero_only
    def sync(self) -> None:
        """Have the system write the rows to the disk."""
        self.experiment.save()
        for path in (self.experiment.file, self.experiment.file.parent):
            if path.exists():
                sync(path)


class Rows(ExperimentWriter):
    """Appends rows to a file; a new column, for which it is written anew, replaces it whole."""

    def __init__(self, log_dir: str) -> None:
        self.held = False
        self.rows = 0
        self._begun = False
        super().__init__(log_dir)
        self.file = Path(self.metrics_file_path)

    def go_on(self, rows: int | None) -> None:
        """Drop the rows after the first `rows`, and the columns that only they have.

        Raises:
            DamagedError: where there are fewer of them; a file that was deleted begins anew.

        """
        kept = self._read()[:rows]
        if rows is not None and self.file.is_file() and len(kept) < rows:
            raise DamagedError(
                f"The file {self.file} is damaged: it has {len(kept)} of the {rows} rows that were logged before the "
                "checkpoint. Delete it to go on without them."
            )
        self.metrics_keys = sorted({key for row in kept for key, value in row.items() if value})
        self.rows = len(kept)
        if kept:
            self._replace(kept)
        else:
            self.file.unlink(missing_ok=True)
        self.held, self._begun = False, True

    def save(self) -> None:
        """Append the rows that are in memory."""
        if self.held or not self.metrics:
            return
        if not self._begun:
            self.go_on(0)
        count = len(self.metrics)
        with explained(self.file, every_cause=True):
            if self._record_new_keys():
                self._replace([*(self._read() if self.rows else []), *self.metrics])
            else:
                with self.file.open("a", newline="", encoding="utf-8") as file:
                    self._writer(file).writerows(self.metrics)
        self.rows, self.metrics = self.rows + count, []

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8", errors="replace") as file:
            whole = [line for line in file if line.endswith("\n")]  # the last one may have been cut
            return [{key: value for key, value in row.items() if key} for row in csv.DictReader(whole)]

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self.file) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self.metrics_keys, extrasaction="ignore", lineterminator="\n")

    def _check_log_dir_exists(self) -> None:
        """Lightning would remove the file of the run that is resumed."""
