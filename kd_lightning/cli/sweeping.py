"""Sweeps over config groups: keys that only the jobs' configurations have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def for_jobs_only(typed: Sequence[str], known_keys: Callable[[], list[str]]) -> list[str]:
    """Return a sweep's command line, in which keys that are not there by default reach the jobs alone.

    Hydra first composes a configuration without what is swept, for the sweep itself, and refuses what is no key of
    that: `-m experiment=rte_t3,sick_t3 data.root=DIR` would not start, as the quickstart's data has no `root`. Values
    that are swept are left to the jobs; so such a key is written as a sweep over its one value. All jobs are
    composed before the first one starts, which refuses a key that they do not have either.

    Args:
        typed: the command line without the program.
        known_keys: returns the dotted keys that are there by default; asked only where a group is swept.

    Example:
        >>> for_jobs_only(["-m", "data=rte,sick", "data.root=DIR", "seed=3"], lambda: ["data", "seed"])
        ['-m', 'data=rte,sick', 'data.root=choice(DIR)', 'seed=3']

    """
    dotted = [text for text in typed if re.match(r"[A-Za-z_]\w*(\.\w+)+=", text) and not text.startswith("hydra.")]
    groups = [text for text in typed if re.match(r"[\w/]+(@[\w.]+)?=", text)]
    if not dotted or not any(map(_is_swept, groups)):
        return list(typed)
    known = set(known_keys())
    late = {text for text in dotted if text.partition("=")[0] not in known and not _is_swept(text)}
    return [_one_choice(text) if text in late else text for text in typed]


def _one_choice(text: str) -> str:
    """Return `key=value` as a sweep over one value; as it is where Hydra cannot read it so."""
    key, _, value = text.partition("=")
    choice = f"{key}=choice({value})"
    return choice if _is_swept(choice) else text


def _is_swept(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:  # told when Hydra reads it
        return False
