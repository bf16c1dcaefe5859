"""One rank of a stage, on the saved configuration: `python -m kd_lightning.cli.worker RUN_DIR STAGE`."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import OmegaConf

from kd_lightning.cli.configs import known_keys
from kd_lightning.cli.messages import one_sentence
from kd_lightning.cli.quiet import quiet
from kd_lightning.cli.stages import run_stage, stage_folder
from kd_lightning.core.files import write_text


def main(run_dir: str, stage: str) -> None:
    """Run a stage; a mistake of the user's becomes one sentence in the stage's folder, other errors a traceback."""
    from kd_lightning.cli.run import find_teacher

    quiet()
    folder = Path(run_dir)
    cfg = OmegaConf.load(folder / "config.yaml")
    try:
        if stage == "find_teacher":
            find_teacher(cfg, folder)  # type: ignore[arg-type]
        else:
            run_stage(cfg, folder, stage)  # type: ignore[arg-type]
    except Exception as error:
        sentence = one_sentence(error, known_keys)
        if sentence is None:
            raise
        where = "teacher" if stage == "find_teacher" else stage
        write_text(stage_folder(folder, where) / "error.txt", sentence)  # type: ignore[arg-type]
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
