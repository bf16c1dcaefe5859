"""What a cache was made from, part by part, so that another teacher, data set or setting is noticed and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.core.hashing import digest


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

    def differences(self, here: Fingerprint, exact: bool = False) -> list[str]:
        """Return what differs from `here`, with both values; unless `exact`, more addresses than here are fine."""
        names = dict.fromkeys([*self.parts, *here.parts])
        changed = [name for name in names if digest(self.parts.get(name)) != digest(here.parts.get(name))]
        held, wanted = (set(parts.get("addresses") or ()) for parts in (self.parts, here.parts))
        if held >= wanted and not exact:
            changed = [name for name in changed if name != "addresses"]
        return [f"{name} ({self.parts.get(name)!r} there, {here.parts.get(name)!r} here)" for name in changed]


def check_expected(
    path: object, found: Fingerprint, expect: Fingerprint | Mapping[str, Any] | str, exact: bool = False
) -> None:
    """Refuse a cache that was made from something else than expected.

    Args:
        path: where it is.
        found: its fingerprint.
        expect: the expected one, or its parts, or its text, which stands for exactly the same addresses.
        exact: whether more addresses than expected differ too.

    Raises:
        CacheError: naming what differs; of a bare hash only that it does.
        ConfigError: `expect` is no fingerprint.

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
