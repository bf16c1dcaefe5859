"""Loading models and their processors by name: from the Hugging Face hub, a folder, or an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_lightning.core.checksums import damage
from kd_lightning.core.errors import ConfigError, KDError, closest

OFFLINE = "as in teacher.path=DIR, or for texts use teacher=minilm_l6, which needs no hub"
"""What an error advises where there is no hub."""


TOKENIZER = (
    "with a tokenizer in it, as in teacher.path=DIR, student.name=DIR or data.tokenizer=DIR; teacher=minilm_l6 and "
    "data.tokenizer=train, one made of the training text, need no hub"
)
"""What an error advises where a tokenizer cannot be loaded."""


def locate(name: str) -> str:
    """Return a hub name or folder as it is, and `pkg://package/folder` as the folder inside the installed package.

    Raises:
        ConfigError: if the package is not installed, or has no such folder.

    Example:
        >>> locate("bert-base-cased")
        'bert-base-cased'

    """
    if not name.startswith("pkg://"):
        return name
    package, _, inner = name.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / inner if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ConfigError(f"{name} is not installed. Type: pip install {package.replace('_', '-')}")
    return str(folder)


def from_hub(load: Callable[..., Any], name: str, advice: str = OFFLINE, **options: Any) -> Any:
    """Load from a folder, a package or the hub.

    Args:
        load: `from_pretrained` of a Transformers class.
        name: a hub name, a folder, or `pkg://package/folder`.
        advice: the end of the error.
        options: for `load`.

    Raises:
        ConfigError: if neither hub nor folder has it, or what they have is damaged.

    """
    if not name:
        raise ConfigError(f"The name of a model is empty. Give a folder on this machine, {advice}.")
    place = Path(locate(name))
    also = "" if advice == OFFLINE else f", {advice}"
    if place.is_dir():
        check_whole(place, also)
    try:
        return load(locate(name), **options)
    except KDError:
        raise
    except Exception as error:  # a damaged configuration, tokenizer or file of weights fails in many ways
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if place.is_dir():
            raise ConfigError(_damaged(place, reason, also)) from error
        raise ConfigError(
            f"Cannot load '{name}' from the Hugging Face hub or a folder ({reason}). Give a folder on this machine, "
            f"{advice}."
        ) from error


def check_whole(folder: Path, also: str = "") -> None:
    """Raise an error where a file of an export was cut, lost or changed; of another folder nothing is known.

    Raises:
        ConfigError: naming the file.

    """
    if found := damage(folder):
        raise ConfigError(_damaged(folder, found, also))


def _damaged(folder: Path, reason: str, also: str) -> str:
    return f"What is in {folder} cannot be loaded ({reason}): save it there again, or give another folder{also}."


def load_tokenizer(name: str | Path) -> Any:
    """Return the tokenizer of a model on the hub, in a folder or in a package.

    Raises:
        ConfigError: if there is none.

    """
    from transformers import AutoTokenizer

    tokenizer = from_hub(AutoTokenizer.from_pretrained, str(name), TOKENIZER)
    # without its files Transformers makes one up, of special tokens alone
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ConfigError(
            f"There is no tokenizer in {name}: it would know no word. Save the model's own there, by "
            "tokenizer.save_pretrained(DIR)."
        )
    return tokenizer


def load_image_processor(name: str | Path) -> Any:
    """Return the image processor of a model on the hub, in a folder or in a package, in its form without torchvision.

    Raises:
        ConfigError: if there is none.

    """
    from transformers import AutoImageProcessor

    advice = "in which the model's image processor is saved too (preprocessor_config.json)"
    return from_hub(AutoImageProcessor.from_pretrained, str(name), advice, backend="pil")


def model_folder(folder: Path, key: str, what: str) -> Path:
    """Return a model's folder if there is a model in it.

    Args:
        folder: where it should be.
        key: the configuration key it was given for.
        what: what should be in it, for the message.

    Raises:
        ConfigError: if it has no `config.json`; names folders nearby that have one.

    """
    if not (folder / "config.json").is_file():
        # beside it and in it: a run's folder has its student in `student`
        models = [*folder.parent.glob("*/config.json"), *folder.glob("*/config.json")]
        near = closest(str(folder), (str(path.parent) for path in models))
        advice = f" Closest: {', '.join(near)}." if near else ""
        raise ConfigError(f"{key}={folder} holds no {what} (no config.json).{advice}")
    return folder


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Run the block without the progress bars that Transformers prints when it loads and saves."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
