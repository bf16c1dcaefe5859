"""One rank of a stage, on the saved configuration: `python -m kd_lightning.cli.worker RUN_DIR STAGE`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from kd_lightning.cli.configs import known_keys
from kd_lightning.cli.messages import one_sentence
from kd_lightning.cli.settle import settings_of
from kd_lightning.cli.terminal import quiet
from kd_lightning.core.files import write_text
from kd_lightning.pipeline.launch import run_stage
from kd_lightning.pipeline.ranks import as_rank
from kd_lightning.pipeline.run import saved_config, stages_of
from kd_lightning.pipeline.signals import raised
from kd_lightning.pipeline.stage import stage_folder


def main(run_dir: Path, name: str) -> None:
    """Run a stage; an error of the user's becomes one sentence in the stage's folder, other errors a traceback."""
    quiet()
    if os.environ.get("RANK", "0") == "0":
        _log_as_the_command(run_dir)
    try:
        settings = settings_of(saved_config(run_dir))
        stage = next(stage for stage in stages_of(settings) if stage.name == name)
        with as_rank(run_dir, name), raised():
            run_stage(stage, settings, run_dir)
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        if sentence is None:
            raise
        write_text(stage_folder(run_dir, name) / "error.txt", sentence)
        sys.exit(1)


def _log_as_the_command(run_dir: Path) -> None:
    """Log to the terminal and to the run's file, in Hydra's format."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout), logging.FileHandler(run_dir / "train.log")]
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s", handlers=handlers
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
