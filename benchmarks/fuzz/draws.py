"""Hypothesis strategies for command lines: groups and values that the configurations offer, in range and out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from omegaconf import OmegaConf

from benchmarks.fuzz.data import IMAGES, PLAIN, QUESTIONS, TAGS, kind_of, place_of
from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.cli.experiments import experiments
from kd_lightning.core.hashing import digest

PLACED = {
    "schedule": ("terms.hard.schedule", "terms.logits.schedule", "terms.logits.loss.temperature_schedule"),
    "sample_temperature": ("terms.logits.loss.sample_temperature",),
}
"""Groups that are added at a place of the objective."""

SEVERAL = ("match", "augment")
"""Groups of which several options combine."""

LEFT_OUT = {
    "hydra": "how Hydra itself works",
    "hparams_search": "a sweep, and no run",
    "recipe": "part of every experiment that is drawn",
    "stage": "part of every experiment that is drawn",
    "debug": "typed in every draw",
}
"""Groups that no draw chooses from, and why."""

PROCESSES = ("ddp", "ddp_cpu")
"""Trainers that start processes of their own: what they do is tested elsewhere."""

UNTOUCHED = re.compile(
    r"^(resume|compile|teacher\.compile|(teacher\.)?trainer\.(devices|num_nodes|strategy|accelerator))$"
    r"|\b(dirpath|save_dir|filename|cache_dir|root|hub|name)$"
)
"""Values that start processes or compilers, or that are places."""

STRANGE = ("0", "-1", "1000000000", "1.5", "nan", "inf", "null", "''", "abc", "[1,2]", "[]", "{}", "true")
"""Values that most keys cannot have."""

NO_BILLION = re.compile(r"(num_workers|layers|depth|num_attention_heads|max_epochs|n_best)$")
"""What nobody waits for, though it can be: that many processes, layers or epochs."""

CHOICES = {
    "teacher.precision": ("float32", "bfloat16", "null"),
    "trainer.precision": ("32-true", "bf16-mixed", "64-true", "null"),
    "student.layers": ("uniform", "skip", "last", "null"),
    "layers": ("uniform", "skip", "last", "top"),
    "projection": ("linear", "relu", "tanh", "null"),
    "dtype": ("bf16", "fp16", "fp32"),
    "mode": ("min", "max", "reflect", "zeros"),
    "combine": ("logits", "probabilities"),
    "loss._target_": ("kd_lightning.losses.LogitMSE", "kd_lightning.losses.SoftTarget"),
}
"""Texts of which each key of that name takes some."""

SMALL = {
    "text": ("teacher=tiny_random", "teacher.architecture.hidden_size=24", "teacher.architecture.intermediate_size=32",
             "teacher.architecture.num_attention_heads=12"),
    "images": ("teacher=tiny_random_vit", "student=resnet8", "teacher.architecture.hidden_size=16"),
}  # fmt: skip
LENGTHS = {QUESTIONS: ("data.max_length=64", "data.stride=8", "data.max_question_length=16"), IMAGES: ()}


@dataclass
class Draw:
    """A drawn command line.

    Args:
        number: its place in the run.
        base: what makes the run small.
        drawn: what was drawn, key → value; groups have the names of their options.

    """

    number: int
    base: list[str]
    drawn: dict[str, str] = field(default_factory=dict)

    @property
    def typed(self) -> list[str]:
        """The command's arguments."""
        others = "teacher" in self.drawn and "tiny_random" not in self.drawn["teacher"]
        kept = [
            text
            for text in self.base
            if text.partition("=")[0] not in self.drawn and not (others and text.startswith("teacher."))
        ]
        return [*kept, *(f"{key}={value}" for key, value in self.drawn.items())]

    @property
    def groups(self) -> list[str]:
        """The groups that were drawn, as a whole or a value of theirs."""
        return sorted({_group_of(key) for key in self.drawn})


def _group_of(key: str) -> str:
    name = re.split(r"[.@=]", key.lstrip("+~"))[0]
    return name if (CONFIGS / name).is_dir() else "root values"


@cache
def options(group: str) -> tuple[str, ...]:
    """Return a group's options: its files, and for experiments those that are made of parts."""
    folder = CONFIGS / group
    found = [str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.yaml"))]
    found = [name for name in found if not name.startswith("base/") and name not in PROCESSES]
    return (*found, *sorted(experiments(CONFIGS))) if group == "experiment" else tuple(found)


def groups() -> list[str]:
    """Return the groups that draws choose from."""
    return sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and folder.name not in LEFT_OUT)


@cache
def composed(start: str) -> dict[str, Any]:
    """Return the configuration that a data set or an experiment makes, interpolations as they are written.

    Of an experiment that is made of parts it is that of its data: composing hundreds takes minutes.
    """
    made = experiments(CONFIGS).get(start.partition("=")[2]) if start.startswith("experiment=") else None
    if made is not None:
        data = next(part["override /data"] for part in made["defaults"] if "override /data" in part)
        return composed(f"data={data}")
    group, _, name = start.partition("=")
    images = bool(re.search(r"base/images|/data: cifar10", (CONFIGS / group / f"{name}.yaml").read_text()))
    models = [text for text in SMALL["images" if images else "text"] if "." not in text]
    return OmegaConf.to_container(compose_config([start, *models]), resolve=False)  # type: ignore[return-value]


@cache
def about_images(group: str, option: str) -> bool | None:
    """Tell whether an option is for images; None: for text and images alike."""
    text = (CONFIGS / group / f"{option}.yaml").read_text()
    if group in ("student", "teacher"):
        return bool(re.search(r"resnet|vit|vision|half_depth|deit", option + text)) if option != "none" else None
    if group in ("augment", "mix"):
        return "image" in text
    return False if group == "match" else None


@cache
def base_of(start: str, folder: Path) -> tuple[str, ...]:
    """Return what makes a start small enough to try, on data that is written for it."""
    data = composed(start)["data"]
    kind = kind_of(data)
    limits = ["data.batch_size=4", *(["data.limit=24"] if kind != PLAIN else [])]
    lengths = LENGTHS.get(kind, ("data.max_length=24",) if "max_length" in data else ())
    small = SMALL["images" if kind == IMAGES else "text"]
    return ("debug=fast", "baseline=false", *small, *limits, *lengths, *place_of(data, folder))


def _fits(group: str, option: str, images: bool, kind: str) -> bool:
    if group == "task":
        want = {IMAGES: "image_classification", TAGS: "tagging", QUESTIONS: "question_answering", PLAIN: "masked_lm"}
        return option == want.get(kind, "classification")
    about = about_images(group, option)
    needs_hub = group == "teacher" and re.search("base|roberta|electra|minilm|_wwm", option)
    slow = group == "teacher" and re.search(r"resnet(110|32x4|56)", option)
    return (about is None or about == images) and not needs_hub and not slow


@st.composite
def command_lines(draw: st.DrawFn, folder: Path) -> Draw:
    """Draw what is typed: a start, further groups, and values, of which in some draws one or two are out of range."""
    start = draw(st.sampled_from(("experiment", "data", "data")))
    starts = options(start)
    name = draw(st.sampled_from(starts))
    line = Draw(0, list(base_of(f"{start}={name}", folder)), {start: name})
    whole = composed(f"{start}={name}")
    kind = kind_of(whole["data"])
    others = [group for group in groups() if group not in ("experiment", "data")]
    chosen = draw(st.lists(st.sampled_from(others), max_size=3, unique=True))
    for group in chosen:
        line.drawn |= draw(_choice(group, kind))
    replaced = tuple(f"{group}." for group in chosen if group in ("teacher", "student", "objective"))
    keys = {key: value for key, value in _leaves(whole) if not key.startswith(replaced)} | _option_leaves(line)
    strange = draw(st.integers(0, 9)) < 2
    fixed = [key for key in sorted(keys) if "${" not in str(keys[key]) and not key.endswith("_")]
    for key in draw(st.lists(st.sampled_from(fixed), max_size=3, unique=True)):
        line.drawn.setdefault(key, draw(_in_range(key, keys[key])))
    odd = [key for key in sorted(keys) if not re.search(r"(?<!loss\.)_(target|partial)_$", key)]
    for key in draw(st.lists(st.sampled_from(odd), min_size=1, max_size=2, unique=True)) if strange else ():
        values = [value for value in STRANGE if value != "1000000000" or not NO_BILLION.search(key)]
        line.drawn[key] = draw(st.sampled_from(values))
    return line


@st.composite
def _choice(draw: st.DrawFn, group: str, kind: str) -> dict[str, str]:
    """Draw options of a group: nine times in ten some that go with the data."""
    every = options(group)
    apt = [option for option in every if _fits(group, option, kind == IMAGES, kind)]
    if group == "match" and draw(st.integers(0, 4)):  # those of TextBrewer's are for one depth each
        apt = [option for option in apt if "/" not in option]
    pool = apt if draw(st.integers(0, 9)) < 9 else every
    if not pool:
        return {}
    if group in PLACED:
        place = draw(st.sampled_from(PLACED[group]))
        return {f"+{group}@objective.{place}": draw(st.sampled_from(pool))}
    if group in SEVERAL and draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2, unique=True))
        return {group: f"[{','.join(names)}]"}
    return {group: draw(st.sampled_from(pool))}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration by dotted key, without those that draws leave alone."""
    for key, value in node.items() if isinstance(node, dict) else ():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        elif not UNTOUCHED.search(path):
            yield path, value


def _option_leaves(line: Draw) -> dict[str, Any]:
    """Return the values that the files of drawn options set, by the key that they have in the whole."""
    found: dict[str, Any] = {}
    for group, names in line.drawn.items():
        for option in names.strip("[]").split(","):
            file = CONFIGS / group / f"{option}.yaml"
            if group in ("experiment", "data") or not file.is_file():
                continue
            found |= _file_leaves(group, file)
    return found


@cache
def _file_leaves(group: str, file: Path) -> dict[str, Any]:
    text = file.read_text()
    package = re.search(r"^# @package (\S+)", text, re.MULTILINE)
    prefix = f"{package.group(1) if package else group}."
    node = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
    return dict(_leaves(node, "" if prefix == "_global_." else prefix))


def _in_range(key: str, value: Any) -> st.SearchStrategy[str]:
    """Draw a value of the kind that a key has."""
    known = next((values for name, values in CHOICES.items() if f".{key}".endswith(f".{name}")), None)
    if known:
        return st.sampled_from(known)
    if isinstance(value, bool):
        return st.sampled_from(("true", "false"))
    if isinstance(value, int):
        return st.sampled_from([str(n) for n in {1, 2, 3, value, value + 1, max(value // 2, 1), min(2 * value, 512)}])
    if isinstance(value, float):
        return st.sampled_from([str(n) for n in (value, value / 2, 2 * value, 0.1, 0.5, 1.0)])
    if isinstance(value, dict):  # an empty one
        return st.just("{}")
    if isinstance(value, list):
        lists = [value, value[::-1], value[:1]]
        return st.sampled_from([f"[{','.join(map(str, one))}]" for one in lists])
    if value is None:
        return st.sampled_from(("null", "null", "null", "null", "null", "null", "1", "0.5"))
    return st.just("'" + str(value).replace("'", "\\'") + "'")


def draw_lines(count: int, number: int, folder: Path) -> list[Draw]:
    """Return drawn command lines, the same for the same seed, package and version of Hypothesis.

    They are kept beside the data that they are about, as drawing takes minutes, until a configuration changes.
    """
    offered = digest([file.read_text() for file in sorted(CONFIGS.rglob("*.yaml"))], Path(__file__).read_text())
    kept = folder / f"seed-{number}-of-{count}-{offered}.json"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([asdict(line) for line in _drawn(count, number, folder)], indent=1))
    return [Draw(**line) for line in json.loads(kept.read_text())]


def _drawn(count: int, number: int, folder: Path) -> list[Draw]:
    found: list[Draw] = []
    seen: set[tuple[tuple[str, str], ...]] = set()

    @seed(number)
    @settings(max_examples=3 * count, phases=[Phase.generate], database=InMemoryExampleDatabase(), deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(command_lines(folder))
    def collect(line: Draw) -> None:
        own = tuple(list(line.drawn.items())[1:])
        if len(found) < count and own not in seen:  # some are made by changing the start of the one before
            line.number = len(found)
            found.append(line)
            seen.add(own)

    collect()
    return found
