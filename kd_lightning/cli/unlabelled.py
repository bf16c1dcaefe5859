"""Text without labels: who may see it, and whether anything can be learnt from it."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from kd_lightning.cli.teacher import has_teacher
from kd_lightning.core.batch import is_batch_field
from kd_lightning.core.errors import ConfigError


def check_unlabelled(cfg: DictConfig) -> None:
    """Refuse text without labels where nobody labels it, before anything is trained.

    Raises:
        ConfigError: without a teacher, or without a term that learns from it.

    """
    if cfg.data.get("unlabelled") is None:
        return
    if not has_teacher(cfg):
        raise ConfigError("data.unlabelled is text for a teacher to label, and there is no teacher: leave it out.")
    if not any(node is not None and _learns_from_teacher(node) for node in cfg.objective.terms.values()):
        raise ConfigError(
            "Nothing can be learnt from data.unlabelled: only labels count in this objective, and that text has none. "
            "Type objective.terms.logits.weight=1, or leave data.unlabelled out."
        )


def labels_only(cfg: DictConfig) -> DictConfig:
    """Return the configuration for a model that learns from labels alone: without text that has none."""
    without: Any = {
        "data": _without(cfg.data),
        "tasks": {name: {"data": _without(t.data)} for name, t in cfg.tasks.items()},
    }
    return OmegaConf.merge(cfg, without)  # type: ignore[return-value]


def _without(data: DictConfig) -> dict[str, None]:
    return {"unlabelled": None} if "unlabelled" in data else {}


def _learns_from_teacher(node: DictConfig) -> bool:
    """Tell whether a term that counts compares the student with something the teacher says."""
    if not node.get("weight", 1.0):
        return False
    match = node.get("match")
    if match is None:  # a scheme of features
        return True
    addresses = match.get("teacher")
    addresses = list(addresses) if isinstance(addresses, ListConfig) else [addresses]
    return any(address is not None and not is_batch_field(address) for address in addresses)
