"""Ways of training that a sweep sets beside each other: each composes, and makes a run's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from kd_lightning.cli.configs import CONFIGS, register
from kd_lightning.cli.settle import settings_of, settle

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "configs"

OTHERS = ("assistant", "generation_1", "generation_2", "general_teacher", "teacher")
"""Stages that train another model."""


@pytest.mark.parametrize("way", sorted(file.stem for file in (FOLDER / "way").glob("*.yaml")))
def test_every_way_makes_settings_and_the_student_trains_for_as_long(way: str) -> None:
    register(FOLDER)
    typed = ["experiment=sick_t3_best", "teacher=minilm_l6", "trainer.max_epochs=30", "cache=true", f"+way={way}"]
    typed += ["data.unlabelled=texts.txt"] if way == "general_then_task" else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*typed, f"hydra.searchpath=[file://{FOLDER}]"])
    settings = settings_of(settle(cfg))
    stages = [name for name in settings.stages if name not in OTHERS]
    lengths = [settings.of(name).fitting.trainer["max_epochs"] for name in stages or ["student"]]
    assert sum(lengths) == 30
