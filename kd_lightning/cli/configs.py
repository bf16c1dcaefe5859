"""Where the configurations are: packaged in a wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kd_lightning.cli import experiments, schema

PACKAGE = Path(__file__).resolve().parents[1]

CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def compose_config(overrides: list[str] | None = None) -> Any:
    """Compose a configuration as the command would, outside of it: for tests and notebooks.

    Example:
        >>> compose_config(["temperature=2.5"]).temperature
        2.5

    """
    schema.register()
    experiments.register(CONFIGS)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides or [])


def known_keys(groups: list[str] | None = None) -> list[str]:
    """Return every dotted key of the configuration that the given group choices make, and the groups' names."""
    cfg = OmegaConf.to_container(compose_config(groups), resolve=False)
    return [*_keys(cfg), *(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())]


def _keys(value: Any, prefix: str = "") -> Any:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(inner, f"{prefix}{key}.")
