"""From what Hydra, OmegaConf and Lightning raise to one sentence that says what to type instead."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import errors as omega
from yaml import YAMLError

from kd_lightning.cli import generated
from kd_lightning.cli.checks import BUILT, arguments_of
from kd_lightning.cli.configs import CONFIGS
from kd_lightning.cli.nearest_key import Known, nearest_key
from kd_lightning.core.errors import KDError, hint
from kd_lightning.core.unwritable import ADVICE, cause_of


def one_sentence(error: Exception, known_keys: Known = None) -> str | None:
    """Return what a user should read instead of a traceback, or None for an error that deserves its traceback.

    Args:
        error: what came out of composing, checking or instantiating a configuration, or of a run.
        known_keys: returns the dotted keys and the config groups that can be typed; asked only for a wrong key.

    """
    for translate in (_ours, _disk, _group_choice, _override, _key_or_value, _composition, _instantiation, _rest):
        sentence = translate(error, known_keys)
        if sentence is not None:
            return " ".join(sentence.split())
    return None


def _ours(error: Exception, known: Known) -> str | None:
    return str(error) if isinstance(error, KDError) else None


def _disk(error: Exception, known: Known) -> str | None:
    """A full disk or a limit where Hydra writes, or a logger."""
    cause = cause_of(error)
    if cause not in ADVICE:
        return None
    place = getattr(error, "filename", None) or "a file of the run"
    return f"Cannot write {place} ({os.strerror(cause or 0)}): {ADVICE[cause or 0]}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from; Hydra sets the cause only sometimes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# -- what was typed ------------------------------------------------------------------------------------------------


def _group_choice(error: Exception, known: Known) -> str | None:
    """`data=sst3`: the group is there, the choice is not."""
    if not isinstance(error, MissingConfigException) or error.missing_cfg_file is None:
        return None
    group, _, choice = error.missing_cfg_file.rpartition("/")
    options = list(error.options or _all_options(str(error), group))
    if not group:
        return f"There is no configuration '{choice}'."
    return f"There is no '{choice}' in config group '{group}'. {hint(choice, options)}"


def _all_options(message: str, group: str) -> list[str]:
    """Return a group's choices from the folders the message names: for a list of choices Hydra does not give them."""
    folders = [Path(unquote(urlparse(url).path)) / group for url in re.findall(r"path=(file://\S+)", message)]
    on_disk = [file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")]
    return sorted({*on_disk, *generated.names(group)})


def _override(error: Exception, known: Known) -> str | None:
    """What was typed is not `key=value`."""
    if not isinstance(error, OverrideParseException):
        return None
    key = error.override.lstrip("+~")
    if re.fullmatch(r"[\w./@]+", key):
        return f"'{error.override}' has no value: type {key}=VALUE."
    if error.override.startswith("-"):
        return (
            f"There is no option '{error.override}': values are typed as key=value, options are listed by --hydra-help."
        )
    return (
        f"'{error.override}' cannot be read as key=value: close every bracket and quote, and quote a value with "
        f"""special characters twice, as in 'key="a b"'."""
    )


def _key_or_value(error: Exception, known: Known) -> str | None:
    """A key that does not exist, or a value of another type: what OmegaConf says, at the place it says."""
    cause = next((e for e in _chain(error) if isinstance(e, omega.OmegaConfBaseException)), None)
    if cause is None or not isinstance(error, ConfigCompositionException | omega.OmegaConfBaseException):
        return None
    place = _place(str(error))
    key = cause.full_key or (str(cause.key) if cause.key is not None else "")
    if isinstance(cause, omega.ConfigKeyError | omega.ConfigAttributeError):
        return f"There is no key '{key}'{place}. {nearest_key(key, cause.parent_node, known)}"
    if isinstance(cause, omega.MissingMandatoryValue):
        return f"'{key}' has no value: type {key}=VALUE."
    if isinstance(cause, omega.InterpolationResolutionError):
        return _interpolation(cause, key, known)
    if isinstance(cause, omega.ValidationError):
        return _wrong_value(cause, key, str(error), place)
    return f"{_plain(str(cause))}{f' at {key!r}' if key else ''}{place}."


def _place(message: str) -> str:
    """Return where a file is at fault, as Hydra begins its message: `In 'experiment/mine': …`."""
    file = re.match(r"In '([^']+)': \w+ raised while composing", message)
    return f", which {file.group(1)}.yaml sets" if file else ""


def _interpolation(cause: omega.OmegaConfBaseException, key: str, known: Known) -> str:
    where = f" in '{key}'" if key else ""
    missing = re.search(r"Interpolation key '([^']+)' not found", str(cause))
    if missing:
        name = missing.group(1)
        return f"The interpolation ${{{name}}}{where} points to nothing. {nearest_key(name, None, known)}"
    if isinstance(cause, omega.ValidationError):
        return _wrong_value(cause, key)
    variable = re.search(r"Environment variable '([^']+)' not found", str(cause))
    if variable:
        return f"The environment variable {variable.group(1)}, which the configuration asks for{where}, is not set."
    return f"An interpolation{where} cannot be resolved: {_plain(str(cause))}."


def _wrong_value(cause: omega.OmegaConfBaseException, key: str, message: str = "", place: str = "") -> str:
    typed = re.match(r"Error merging override \+*([^=]+)=", message)
    if typed and typed.group(1).startswith(f"{key}."):
        return f"There is no key '{typed.group(1)}': '{key}' is a single value."
    text = str(cause)
    if "is not Optional" in text:
        return f"'{key}' cannot be null{place}."
    kinds = {"to Float": "a number", "to Integer": "a whole number", "bool": "true or false"}
    kind = next((kind for words, kind in kinds.items() if words in text), None)
    return f"'{key}' cannot be {cause.value!r}{place}: {f'it must be {kind}' if kind else _plain(text)}."


def _plain(message: str) -> str:
    """Return the first line of a message without its full stop."""
    return (message.strip().splitlines() or ["no reason was given"])[0].rstrip(". ")


# -- what Hydra says of a composition, without an error of OmegaConf beneath -----------------------------------------

_REFUSALS: tuple[tuple[str, Callable[[Sequence[str]], str]], ...] = (
    (
        r"Could not append to config\. An item is already at '([^']+)'",
        lambda m: f"'{m[0]}' is already there: type {m[0]}=VALUE, without +.",
    ),
    (
        r"Multiple values for ([^.]+)\. To override a value use 'override [^:]+: ([^']+)'",
        lambda m: f"'{m[0]}' is already chosen: type {m[0]}={m[1]}, without +.",
    ),
    (
        r"force-add of config groups is not supported: '\+\+([^']+)'",
        lambda m: f"'++{m[0]}' chooses from a config group: type {m[0]}, without ++.",
    ),
    (
        r"Ambiguous value for argument '([^=]+)=([^']*)'",
        lambda m: f"'{m[0]}={m[1]}' are several values: add -m for one run each, or type '{m[0]}=[{m[1]}]' for a list.",
    ),
    (
        r"Sweep parameters '([^']+)' requires --multirun",
        lambda m: f"'{m[0]}' are several values: add -m for one run each.",
    ),
    (
        r"Could not delete '([^=']+)=([^']+)'",
        lambda m: f"'~{m[0]}={m[1]}' removes nothing, because {m[1]} is not chosen in {m[0]}.",
    ),
)

_UNKNOWN = (
    r"Could not delete from config\. '([^']+)' does not exist",
    r"Could not delete '([^']+)'",
    r"Could not override '([^']+)'",
    r"but config group '([^']+)' does not exist",
)


def _composition(error: Exception, known: Known) -> str | None:
    if not isinstance(error, HydraException) or isinstance(error, InstantiationException):
        return None
    text = str(error)
    for pattern, sentence in _REFUSALS:
        if found := re.search(pattern, text):
            return sentence(found.groups())
    for pattern in _UNKNOWN:
        if found := re.search(pattern, text):
            file = re.match(r"In '([^']+)'", text)
            place = f", which {file.group(1)}.yaml names" if file else ""
            return (
                f"There is no key or config group '{found.group(1)}'{place}. {nearest_key(found.group(1), None, known)}"
            )
    return f"{_plain(text)}."


# -- what happens while objects are built, and the rest --------------------------------------------------------------


def _instantiation(error: Exception, known: Known) -> str | None:
    """An object could not be built: our own errors, wrong arguments and missing files are sentences."""
    if not isinstance(error, InstantiationException):
        return None
    text, cause = str(error), error.__cause__
    key = re.search(r"full_key: (\S+)", text)
    target = re.search(r"(?:call to|locating) target '([^']+)'", text)
    where = f"'{key.group(1)}'" if key else "the configuration"
    named = f"{where} ({target.group(1)})" if target else where
    if cause is None or isinstance(cause, ImportError):
        return f"{named} cannot be built: {_plain(text if cause is None else str(cause.__cause__ or cause))}."
    if isinstance(cause, Exception) and (inner := one_sentence(cause, known)) is not None:
        return f"{where}: {inner}" if key else inner
    wrong = re.search(r"unexpected keyword argument '([^']+)'", str(cause))
    if wrong and target:
        return f"'{key.group(1) + '.' if key else ''}{wrong.group(1)}' is no argument of {target.group(1)}. " + hint(
            wrong.group(1), _arguments_of_target(target.group(1))
        )
    if isinstance(cause, TypeError | ValueError | OSError):
        return f"{named} cannot be built: {_plain(str(cause))}."
    return None


def _arguments_of_target(target: str) -> list[str]:
    """Return the names of what a target takes, by the name of its module, which a function in it may share."""
    module, _, name = target.rpartition(".")
    try:
        return list(arguments_of(getattr(importlib.import_module(module), name)).named)
    except (ImportError, AttributeError):  # a method of a class
        return list(arguments_of(get_object(target)).named)


def _null_group(typed: Sequence[str]) -> str:
    """Return what to type instead of `GROUP=null`; Hydra does not say which group it was."""
    if wrong := next((text for text in typed if text.startswith(("=", "@="))), None):
        return f"'{wrong}' cannot be read as key=value: it has no key."
    group = next((text.removesuffix("=null") for text in typed if text.endswith("=null") and "." not in text), "")
    if group in BUILT or group in ("teacher", "plan"):
        names = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
        return f"'{group}' cannot be null: type {group}=NAME. {hint('none' if group == 'teacher' else '', names)}"
    return f"A config group cannot be null: leave it out with ~{group or 'GROUP'}{'' if group else ', as in ~logger'}."


def _rest(error: Exception, known: Known) -> str | None:
    """A YAML file that cannot be read, and what Lightning says of a Trainer that cannot be."""
    if isinstance(error, YAMLError):
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a configuration file"
        return f"{place} is not valid YAML: {problem or _plain(str(error))}."
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string or a list"):
        return _null_group(sys.argv[1:])
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return _plain(str(error))
    if type(error).__name__ == "MisconfigurationException":
        return f"{str(error).rstrip('. ')}."
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be read or written ({error.strerror}). What was saved before is whole."
    return None
