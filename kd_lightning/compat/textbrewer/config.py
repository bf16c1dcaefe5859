"""Reading a TextBrewer configuration, whichever form it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from kd_lightning.core.errors import ConfigError, hint

Config: TypeAlias = Mapping[str, Any] | str | Path | object
"""A dict, the path of a JSON file, or an object with such attributes, as TextBrewer's own are."""


def read(config: Config, defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the value of every argument of a configuration.

    Args:
        config: as given; of an object, attributes that are not in `defaults` are left alone.
        defaults: every argument and what it is where it is not given.
        name: what the configuration is called in errors.

    Raises:
        ConfigError: if a file cannot be read, or a key is no argument.

    Example:
        >>> read({"temperature": 8}, {"temperature": 4, "kd_loss_type": "ce"}, "DistillationConfig")
        {'temperature': 8, 'kd_loss_type': 'ce'}

    """
    if isinstance(config, str | Path):
        config = _from_json(Path(config), name)
    if isinstance(config, Mapping):
        unknown = next((key for key in config if key not in defaults), None)
        if unknown is not None:
            raise ConfigError(f"{name} has no argument '{unknown}'. {hint(str(unknown), defaults)}")
        return {**defaults, **config}
    return {key: getattr(config, key, value) for key, value in defaults.items()}


def _from_json(path: Path, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} cannot be read from {path}: {error}") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"Expected {path} to hold one JSON object, the arguments of {name}.")
    return found
