"""The manifest of a cache: what it was made from, what it holds, and which files belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kd_lightning.core.errors import CacheError, closest
from kd_lightning.core.files import write_json
from kd_lightning.core.hashing import digest
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.addresses import address_kind
from kd_lightning.teachers.cache.fingerprint import Fingerprint, check_expected
from kd_lightning.teachers.cache.shard import ENDING, ShardInfo

FORMAT = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
"""Written before the first shard, so that what is half built is known too."""


@dataclass
class Manifest:
    """What a finished cache says of itself.

    Args:
        fingerprint: what it was made from.
        stacks: layers of the teacher's stacks by prefix, of those that features are from.
        features: axes, width and stack of each feature, as far as the teacher's structure tells them.
        shards: the files.

    """

    fingerprint: Fingerprint
    stacks: dict[str, int]
    features: dict[str, FeatureInfo]
    shards: list[ShardInfo] = field(default_factory=list)

    def save(self, folder: Path, name: str = MANIFEST) -> None:
        """Write the manifest, whole or not at all."""
        plain = {
            "format": FORMAT,
            "fingerprint": self.fingerprint.parts,
            "stacks": self.stacks,
            "widths": {address: info.width for address, info in self.features.items()},
            "kinds": {address: info.kind for address, info in self.features.items()},
            "stack_of": {address: info.stack for address, info in self.features.items()},
            "shards": [asdict(info) for info in self.shards],
        }
        write_json(folder / name, plain | {"check": digest(plain)})

    @classmethod
    def open(cls, folder: Path, name: str = MANIFEST) -> Manifest:
        """Read a manifest.

        Raises:
            CacheError: there is none, it is damaged, or of another version.

        """
        plain = _read(folder / name)
        if plain.get("format") != FORMAT:
            raise CacheError(
                f"The teacher cache in {folder} has format {plain.get('format')}, and this version reads {FORMAT}. "
                "Delete it and build it again."
            )
        if plain.pop("check", None) != digest(plain):
            raise CacheError(f"The file {folder / name} has changed since it was written. {_remedy(folder, name)}")
        shards = [ShardInfo(**info) for info in plain["shards"]]
        return cls(Fingerprint(plain["fingerprint"]), plain["stacks"], _features(plain), shards)


def settle_plan(folder: Path, plan: Manifest) -> None:
    """Say what is being built in a folder, or see that the same was begun there.

    Raises:
        CacheError: another cache is there, naming what differs.

    """
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file; give a new or empty folder for a teacher cache.")
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / PLAN).is_file() and any(folder.glob(f"*{ENDING}*"))  # a plan alone binds nobody
    if begun:
        check_expected(folder, Manifest.open(folder, PLAN).fingerprint, plan.fingerprint, exact=True)
    elif foreign := next((p.name for p in folder.iterdir() if p.name != PLAN and not p.name.startswith(".")), None):
        raise CacheError(f"{folder} holds other things ('{foreign}'); give a new or empty folder for a teacher cache.")
    else:
        plan.save(folder, PLAN)


def _read(path: Path) -> dict[str, Any]:
    folder = path.parent
    if not path.is_file():
        if (folder / PLAN).is_file():
            raise CacheError(
                f"The teacher cache in {folder} is not finished: build it again, which goes on from there."
            )
        near = closest(str(folder), (str(found.parent) for found in folder.parent.glob(f"*/{MANIFEST}")))
        advice = f" Closest: {', '.join(near)}." if near else " Make one with TeacherCache.build(…)."
        raise CacheError(f"There is no teacher cache in {folder}.{advice}")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CacheError(f"The file {path} cannot be read ({error}). {_remedy(folder, path.name)}") from error


def _features(plain: Mapping[str, Any]) -> dict[str, FeatureInfo]:
    """Return what a manifest knows of its features; those of the first versions have widths only."""
    kinds, stacks = plain.get("kinds", {}), plain.get("stack_of", {})
    return {
        address: FeatureInfo(kinds.get(address) or address_kind(address), width, stacks.get(address, ""))
        for address, width in plain["widths"].items()
    }


def _remedy(folder: Path, name: str) -> str:
    """Say what to do: a manifest can be written again from the shards, a plan cannot."""
    if name == MANIFEST:
        return "Delete it and build the cache again, which keeps the shards."
    return f"Delete the folder {folder} and build the cache again."
