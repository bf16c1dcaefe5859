"""Errors that a user can act on: one sentence that names the thing, the place and the nearest valid choice."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class KDError(Exception):
    """Base of every error of this library. The command prints it as one line and exits with 1."""


class AddressError(KDError):
    """An address (`hidden.3`, `encoder.layer.2`, …) that a model does not have, or that was not collected."""


class MatchError(KDError):
    """A match, projection or layer map that does not fit the two models."""


class ConfigError(KDError):
    """A configuration that cannot be run."""


class DataError(KDError):
    """A data folder, column, label or tokenizer that is missing or does not fit."""


class CacheError(KDError):
    """A teacher cache that is missing, incomplete, damaged, or was built from something else."""


class NonFiniteLossError(KDError):
    """A term of the objective became infinite or not-a-number."""


class DamagedError(KDError):
    """A file that was cut or changed since it was written."""


class WriteError(KDError):
    """A file that could not be written: the disk is full, a limit is reached, the folder may not be written."""


class Stopped(SystemExit):
    """A signal asked a run to stop. Its exit code is what shells give for the signal: 130, 143, 138.

    Args:
        number: the signal's number.
        saved: what was saved, for the message; empty: nothing.

    Example:
        >>> import signal
        >>> Stopped(signal.SIGTERM, "step 40").code, Stopped(signal.SIGTERM).name
        (143, 'SIGTERM')

    """

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(128 + number)
        self.number = int(number)
        self.saved = saved

    @property
    def name(self) -> str:
        """What the signal is called."""
        return signal.Signals(self.number).name


def closest(word: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` of `choices` that look most like `word`, best first.

    Example:
        >>> closest("hiden.1", ["hidden.1", "attention.1", "logits"], n=1)
        ['hidden.1']

    """
    return difflib.get_close_matches(word, list(choices), n=n, cutoff=0.4)


def hint(word: str, choices: Iterable[str], n: int = 3) -> str:
    """Return the sentence that ends an error about a wrong name: the closest choices, or all of them if none is close.

    Example:
        >>> hint("hiden.1", ["hidden.1", "logits"], n=1)
        'Closest: hidden.1.'
        >>> hint("zzz", ["logits", "loss"])
        'Choices: logits, loss.'

    """
    choices = list(choices)
    near = closest(word, choices, n)
    if near:
        return f"Closest: {', '.join(near)}."
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f"Choices: {shown}." if choices else "There is nothing to choose from."
