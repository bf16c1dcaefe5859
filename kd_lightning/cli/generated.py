"""Configurations without a file, in a source of their own that Hydra searches after all folders.

Hydra's `ConfigStore` would hold them too, but Hydra copies the whole store deeply whenever it composes, and once per
group to write the help page: hundreds of small configurations would make that take many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

Names: TypeAlias = list[str]

_GROUPS: dict[str, dict[str, tuple[Any, str]]] = {}
"""Group → name → (what the configuration is, its package)."""


def add(group: str, nodes: Mapping[str, Any], package: str) -> None:
    """Make `group=name` known for each of the given configurations.

    Args:
        group: a config group, of which there may be files too; a file of the same name wins.
        nodes: plain dicts and lists, as a YAML file would hold, by name.
        package: where in the configuration they go, as in the header `# @package`.

    """
    Plugins.instance().register(GeneratedSource)
    Plugins.instance().register(GeneratedPath)
    _GROUPS.setdefault(group, {}).update({name: (node, package) for name, node in nodes.items()})


def names(group: str) -> Names:
    """Return the names in a group, in the order in which they were added."""
    return list(_GROUPS.get(group, {}))


class GeneratedSource(ConfigSource):
    """The configurations that `add` was given, as one of Hydra's sources."""

    @staticmethod
    def scheme() -> str:
        """Return what the source's address in the search path begins with."""
        return "kd-generated"

    def available(self) -> bool:
        """Return True: there is nothing to be found first."""
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a configuration, made anew: Hydra changes what it gets.

        Raises:
            ConfigLoadError: if there is none of this name.

        """
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        group, name = _split(config_path)
        node, package = _GROUPS[group][name]
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(node), {"package": package})

    def is_group(self, config_path: str) -> bool:
        """Return whether there is a group of this name."""
        return config_path.strip("/") in _GROUPS

    def is_config(self, config_path: str) -> bool:
        """Return whether there is a configuration `group/name`."""
        group, name = _split(config_path)
        return name in _GROUPS.get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> Names:
        """Return the sorted names in a group."""
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(names(config_path.strip("/")))


class GeneratedPath(SearchPathPlugin):
    """Puts the source at the end of Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source to what Hydra searches."""
        search_path.append("kd_lightning", f"{GeneratedSource.scheme()}://")


def _split(config_path: str) -> tuple[str, str]:
    group, _, name = config_path.strip("/").removesuffix(".yaml").rpartition("/")
    return group, name
