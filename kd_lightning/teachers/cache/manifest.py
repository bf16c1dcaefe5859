"""What a cache was made from, what it holds, and which files belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.errors import CacheError, ConfigError, closest
from kd_lightning.core.files import write_json
from kd_lightning.core.hashing import digest
from kd_lightning.core.types import FeatureInfo
from kd_lightning.features.addresses import address_kind
from kd_lightning.teachers.cache.shard import ENDING, ShardInfo

FORMAT = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
"""Written before the first shard, so that an unfinished cache has a fingerprint too."""


@dataclass(frozen=True)
class Fingerprint:
    """The named parts of what a cache was made from: teacher, data, dtype, addresses, top_k.

    Args:
        parts: JSON-like values by name.

    Example:
        >>> one, other = Fingerprint({"data": "a", "dtype": "bf16"}), Fingerprint({"data": "b", "dtype": "bf16"})
        >>> one.differences(other)
        ["data ('a' there, 'b' here)"]

    """

    parts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return digest(self.parts)

    def __repr__(self) -> str:
        return f"Fingerprint('{self}' of {', '.join(sorted(self.parts))})"

    def differences(self, here: Fingerprint, exact: bool = False) -> list[str]:
        """Return what differs from `here`, with both values; unless `exact`, more of the teacher is fine."""
        names = dict.fromkeys([*self.parts, *here.parts])
        changed = [name for name in names if digest(self.parts.get(name)) != digest(here.parts.get(name))]
        for part in () if exact else ("addresses", "teacher_state"):
            held, wanted = (set(parts.get(part) or ()) for parts in (self.parts, here.parts))
            changed = [name for name in changed if name != part or not held >= wanted]
        return [f"{name} ({self.parts.get(name)!r} there, {here.parts.get(name)!r} here)" for name in changed]


def check_expected(
    path: object, found: Fingerprint, expect: Fingerprint | Mapping[str, Any] | str, exact: bool = False
) -> None:
    """Check that a cache was made from what is expected.

    Args:
        path: where it is.
        found: its fingerprint.
        expect: the expected one, its parts, or its text, which means exactly the same addresses.
        exact: whether having more addresses than expected is a difference too.

    Raises:
        CacheError: if it differs; names the parts and both values, or for a bare hash the two hashes.
        ConfigError: if `expect` is no fingerprint.

    """
    if not isinstance(expect, str | Fingerprint | Mapping):
        raise ConfigError(
            f"Expected argument `expect` to be a fingerprint, such as TeacherCache.fingerprint_of(…) returns, but got "
            f"{expect!r}."
        )
    if isinstance(expect, str):
        differences = [] if str(found) == expect else [f"fingerprint {found} there, {expect} expected"]
    else:
        here = expect if isinstance(expect, Fingerprint) else Fingerprint(dict(expect))
        differences = found.differences(here, exact)
    if differences:
        raise CacheError(
            f"The teacher cache in {path} was made from something else: {'; '.join(differences)}. Build it anew in "
            "another folder, or delete this one."
        )


@dataclass
class Manifest:
    """The contents of a finished cache.

    Args:
        fingerprint: what it was made from.
        stacks: layers of the teacher's stacks by prefix, of those that features are from.
        features: axes, width and stack of each feature, as far as the teacher's structure determines them, and what
            losses asked for of the teacher's weights.
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
        state = {address: _plain(info.state) for address, info in self.features.items() if info.state}
        plain |= {"state": state} if state else {}
        write_json(folder / name, plain | {"check": digest(plain)})

    @classmethod
    def open(cls, folder: Path, name: str = MANIFEST) -> Manifest:
        """Read a manifest.

        Raises:
            CacheError: if there is none, or it is damaged or of another version.

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


def ensure_plan(folder: Path, plan: Manifest) -> None:
    """Write what is being built in a folder, or check that what was begun there is the same.

    Raises:
        CacheError: if another cache, or something else, is there; names what differs.

    """
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file; give a new or empty folder for a teacher cache.")
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / PLAN).is_file() and any(folder.glob(f"*{ENDING}*"))  # a plan without shards may be replaced
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
                f"The teacher cache in {folder} is not finished: build it again, which continues from there."
            )
        near = closest(str(folder), (str(found.parent) for found in folder.parent.glob(f"*/{MANIFEST}")))
        advice = f" Closest: {', '.join(near)}." if near else " Make one with TeacherCache.build(…)."
        raise CacheError(f"There is no teacher cache in {folder}.{advice}")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CacheError(f"The file {path} cannot be read ({error}). {_remedy(folder, path.name)}") from error


def _features(plain: Mapping[str, Any]) -> dict[str, FeatureInfo]:
    """Return the features of a manifest; those of the first version have widths only."""
    kinds, stacks, state = plain.get("kinds", {}), plain.get("stack_of", {}), plain.get("state", {})
    return {
        address: FeatureInfo(
            kinds.get(address) or address_kind(address),
            width,
            stacks.get(address, ""),
            address=address,
            state={name: torch.tensor(values) for name, values in state.get(address, {}).items()},
        )
        for address, width in plain["widths"].items()
    }


def _plain(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in state.items()}


def _remedy(folder: Path, name: str) -> str:
    """Return what to do: a manifest can be written again from the shards, a plan cannot."""
    if name == MANIFEST:
        return "Delete it and build the cache again, which keeps the shards."
    return f"Delete the folder {folder} and build the cache again."
