"""Where the configurations are, what types their root, and what is composed of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from kd_lightning.cli import experiments

PACKAGE = Path(__file__).resolve().parents[1]

CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
"""Packaged in a wheel, or beside the package in a checkout."""


@dataclass
class TrainSchema:
    """Keys at the root of `configs/train.yaml`: a misspelled one, or a wrong type, fails while composing.

    Groups stay open; their targets are checked against their signatures.
    """

    data: Any = field(default_factory=dict)
    task: Any = field(default_factory=dict)
    tasks: Any = field(default_factory=dict)
    teacher: Any = field(default_factory=dict)
    student: Any = field(default_factory=dict)
    objective: Any = field(default_factory=dict)
    plan: Any = field(default_factory=dict)
    strategy: Any = None
    curriculum: Any = None
    optimizer: Any = field(default_factory=dict)
    scheduler: Any = None
    trainer: Any = field(default_factory=dict)
    logger: Any = None
    callbacks: Any = None
    temperature: float = 4.0
    tau: float = 1.0
    seed: int = 0
    baseline: bool = False
    cache: bool = False
    compile: bool = False
    resume: str | None = None
    published: Any = field(default_factory=dict)


RESOLVERS: dict[str, Callable[..., Any]] = {"sum": lambda *values: sum(values), "times": lambda a, b: a * b}
"""What configurations may compute: `${sum:${seed},1000}`, `${times:10,${trainer.max_epochs}}`."""


def register(own: Path | None = None) -> None:
    """Put the schema and the generated configurations where Hydra looks for them.

    Args:
        own: a user's folder of configurations.

    """
    ConfigStore.instance().store(name="train_schema", node=TrainSchema)
    for name, combine in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, combine, replace=True)
    experiments.register(CONFIGS, own)


def compose_config(overrides: list[str] | None = None) -> Any:
    """Compose a configuration as the command would, outside of it: for tests and notebooks.

    Example:
        >>> compose_config(["temperature=2.5"]).temperature
        2.5

    """
    register()
    with _beside_a_run(), initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides or [])


@contextmanager
def _beside_a_run() -> Iterator[None]:
    """Let Hydra compose another configuration while it runs a job, as advice on a mistyped key needs."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def known_keys(groups: list[str] | None = None) -> list[str]:
    """Return every dotted key of the configuration that the given group choices make, and the groups' names."""
    cfg = OmegaConf.to_container(compose_config(groups), resolve=False)
    return [*_keys(cfg), *(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())]


def _keys(value: Any, prefix: str = "") -> Any:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(inner, f"{prefix}{key}.")


# -- sweeps over groups ----------------------------------------------------------------------------------------------


def for_jobs_only(typed: Sequence[str], known: Callable[[], list[str]]) -> list[str]:
    """Return a sweep's command line, in which keys that are not there by default reach the jobs alone.

    Hydra first composes a configuration without what is swept, for the sweep itself, and raises an error for what is
    no key of that: `-m experiment=rte_t3,sick_t3 data.root=DIR` would not start, as the quickstart's data has no
    `root`. Values that are swept are left to the jobs; so such a key is written as a sweep over its one value. All
    jobs are composed before the first one starts, so that a key that they do not have either is an error then.

    Args:
        typed: the command line without the program.
        known: returns the dotted keys that are there by default; called only where a group is swept.

    Example:
        >>> for_jobs_only(["-m", "data=rte,sick", "data.root=DIR", "seed=3"], lambda: ["data", "seed"])
        ['-m', 'data=rte,sick', 'data.root=choice(DIR)', 'seed=3']

    """
    dotted = [text for text in typed if re.match(r"[A-Za-z_]\w*(\.\w+)+=", text) and not text.startswith("hydra.")]
    groups = [text for text in typed if re.match(r"[\w/]+(@[\w.]+)?=", text)]
    if not dotted or not any(map(_is_swept, groups)):
        return list(typed)
    there = set(known())
    late = {text for text in dotted if text.partition("=")[0] not in there and not _is_swept(text)}
    return [_one_choice(text) if text in late else text for text in typed]


def _one_choice(text: str) -> str:
    """Return `key=value` as a sweep over one value; as it is where Hydra cannot read it so."""
    key, _, value = text.partition("=")
    choice = f"{key}=choice({value})"
    return choice if _is_swept(choice) else text


def _is_swept(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:  # raised again when Hydra reads it
        return False
