from __future__ import annotations

from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.cli.checks import check_config, check_targets
from kd_lightning.cli.configs import CONFIGS, compose_config, known_keys
from kd_lightning.cli.experiments import experiments, lines
from kd_lightning.cli.settle import check_root_keys, plain, settle, task_configs
from kd_lightning.core.errors import ConfigError
from kd_lightning.data import Augmentation, ImageAugmentation, Mixing
from kd_lightning.objective import MatchScheme, Objective, Scheme, Term
from kd_lightning.objective.match import Match

GROUPS = ("data", "teacher", "student", "objective", "optimizer", "scheduler", "trainer", "logger",
          "callbacks", "debug")  # fmt: skip
GOLDEN = Path(__file__).parent / "golden" / "experiments.yaml"


def names(group: str) -> list[str]:
    folder = CONFIGS / group
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


MADE = experiments(CONFIGS)
"""Experiments without a file, by name."""

CHOICES = [[f"experiment={name}"] for name in names("experiment")] + [
    [f"{group}={name}" for group, name in zip(GROUPS, together, strict=True) if name is not None]
    for together in zip_longest(*map(names, GROUPS))
]
"""Each choice of each group in one of these: one of every group composes together, and experiments by themselves."""


@cache
def composed(*overrides: str) -> Any:
    """Compose, and check as the command does before anything is built."""
    cfg = compose_config(list(overrides))
    check_root_keys(cfg)
    check_targets(cfg)
    return cfg


@pytest.mark.parametrize("choices", CHOICES, ids=" ".join)
def test_every_choice_composes_and_its_targets_take_its_arguments(choices: list[str]) -> None:
    assert plain(composed(*choices))["task"]["metric"]  # and every interpolation resolves


def schemes_of(*matches: str) -> dict[str, Any]:
    terms = composed(f"match=[{','.join(matches)}]").objective.terms
    return {key: node for key, node in terms.items() if key not in ("hard", "logits")}


@pytest.mark.parametrize("name", [name for name in names("match") if not name.startswith("textbrewer/")])
def test_every_match_makes_schemes(name: str) -> None:
    made = schemes_of(name)
    assert made
    for node in made.values():
        assert isinstance(instantiate(node), Scheme)


TEXTBREWERS: dict[str, list[str]] = {}
"""TextBrewer's names by their student, as L3 or small: those of one have terms of different names."""
for name in names("match/textbrewer"):
    TEXTBREWERS.setdefault(name.partition("_")[0], []).append(name)


@pytest.mark.parametrize("student", TEXTBREWERS)
def test_textbrewers_matches_make_schemes_and_need_no_folder(student: str) -> None:
    short = TEXTBREWERS[student]
    made = schemes_of(*short)
    assert len(made) == len(short)
    assert plain(OmegaConf.create(made)) == plain(OmegaConf.create(schemes_of(*(f"textbrewer/{n}" for n in short))))
    for node in made.values():
        assert isinstance(instantiate(node), Scheme)


def test_a_name_of_textbrewers_stands_beside_others() -> None:
    name = names("match/textbrewer")[0]
    assert plain(composed(f"match=[{name},minilm]").objective.terms).keys() >= {"hard", "logits", "minilm_value"}


@pytest.mark.parametrize("objective", ["default", "textbrewer", "probability_shift"])
def test_one_line_selects_another_loss_for_the_logits(objective: str) -> None:
    inner = "loss.loss" if objective == "probability_shift" else "loss"
    typed = f"objective.terms.logits.{inner}._target_=kd_lightning.losses.LogitMSE"
    loss = instantiate(composed(f"objective={objective}", typed).objective).declared["logits"].loss
    assert type(getattr(loss, "loss", loss)).__name__ == "LogitMSE"


@pytest.mark.parametrize("name", names("augment"))
def test_every_augmentation_is_built_with_the_defaults_of_its_class(name: str) -> None:
    (node,) = composed(f"augment={name}").data.augment.values()
    made = instantiate(node)
    assert isinstance(made, Augmentation | ImageAugmentation)
    assert vars(made) == vars(type(made)()) | ({"share": 0.25} if name == "ngram" else {})


@pytest.mark.parametrize("name", names("mix"))
def test_every_mixing_is_built_with_the_defaults_of_its_class(name: str) -> None:
    made = instantiate(composed("data=cifar10", f"mix={name}").data.mix)
    assert isinstance(made, Mixing)
    assert vars(made) == vars(type(made)())


def test_augmentations_combine_in_the_order_they_are_typed() -> None:
    cfg = composed("data=sst2", "augment=[mask,delete,short_reorder]", "data.augment.mask.p=0.3")
    made = instantiate(cfg.data)
    assert [type(augmentation).__name__ for augmentation in made.augment] == ["Mask", "Delete", "ShortReorder"]
    assert made.augment[0].p == 0.3
    assert instantiate(composed("data=sst2").data).augment == []


def test_groups_are_all_tried_here() -> None:
    untried = {
        "experiment",
        "match",
        "augment",
        "mix",
        "task",
        "plan",
        "hydra",
        "hparams_search",
    }  # below, with data, in every run, with optuna
    untried |= {"schedule", "sample_temperature", "recipe", "stage"}  # each by itself, below
    untried |= {"strategy", "sample_weight", "curriculum"}  # in cli/test_plans.py
    untried |= {"method", "published"}  # in test_methods.py, and as a part of experiments
    assert {folder.name for folder in CONFIGS.iterdir() if folder.is_dir()} - {"local"} == {*GROUPS, *untried}


def test_the_sweeper_of_optuna_composes() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert composed("hparams_search=optuna").temperature == 4.0


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_says_its_command_and_builds_its_objective(name: str) -> None:
    header, command = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()[:2]
    assert header == "# @package _global_"
    assert command == ("# python train.py" if name == "quickstart" else f"# python train.py experiment={name}")
    objective = instantiate(composed(f"experiment={name}").objective)
    assert isinstance(objective, Objective)
    assert {"hard", "logits"} <= set(objective.declared)


def crossed() -> list[str]:
    """Each task with a student, and each student with a task, of every line."""
    found = set()
    for line in lines(CONFIGS):
        tasks, students = line["tasks"], line["students"]
        for i in range(max(len(tasks), len(students))):
            found.add(f"{tasks[i % len(tasks)]}_{students[i % len(students)]}")
    return sorted(found)


@pytest.mark.parametrize("name", crossed())
def test_every_task_and_every_student_makes_experiments(name: str) -> None:
    cfg = composed(f"experiment={name}")
    assert name == f"{cfg.data.name}_{name.removeprefix(f'{cfg.data.name}_')}"
    check_config(cfg)
    assert cfg.temperature == (2.0 if cfg.data.name == "mlm" or name.endswith("_best") else 8.0)
    assert isinstance(instantiate(cfg.objective), Objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MADE) - set(crossed())))
def test_every_task_goes_with_every_student(name: str) -> None:
    assert plain(composed(f"experiment={name}"))["task"]["metric"]


def test_every_experiment_without_a_file_is_made_of_files() -> None:
    for name, node in MADE.items():
        recipe, *stages = (file for file in node["defaults"] if isinstance(file, str))
        overrides = node["defaults"][1 + len(stages) :]
        (data,), (teacher,) = (override.values() for override in overrides)
        assert name == f"{data}_{recipe.removeprefix('/recipe/')}"
        for file in (*(part.removeprefix("/") for part in (recipe, *stages)), f"data/{data}", f"teacher/{teacher}"):
            assert (CONFIGS / f"{file}.yaml").is_file(), file


def test_no_experiment_is_made_twice() -> None:
    made = [f"{task}_{student}" for line in lines(CONFIGS) for task in line["tasks"] for student in line["students"]]
    assert len(made) == len(set(made))
    assert not set(made) & set(names("experiment"))


def test_every_recipe_is_of_a_student_and_used() -> None:
    assert {name.removesuffix("_best") for name in names("recipe")} <= set(names("student"))
    assert set(names("recipe")) == {student for line in lines(CONFIGS) for student in line["students"]}


def test_before_a_task_true_tokens_count_and_a_teacher_that_knows_the_language_is_not_trained() -> None:
    cfg = composed("experiment=mlm_t6")
    assert (cfg.objective.terms.hard.weight, cfg.objective.terms.logits.weight) == (1.0, 1.0)
    logits = instantiate(cfg.objective).declared["logits"].loss
    assert (type(logits).__name__, logits.temperature) == ("SoftTarget", 2.0)
    assert (cfg.task._target_, cfg.student.layers, cfg.teacher.trainer.max_epochs) == (
        "kd_lightning.tasks.MaskedLMTask",
        "uniform",
        0,
    )
    for teacher in ("tiny_random", "minilm_l6", "electra_base_zh"):
        assert composed("experiment=mlm_t6", f"teacher={teacher}").teacher.trainer.max_epochs == 1
    assert composed("experiment=sst2_t6").teacher.trainer.max_epochs == 3


@pytest.mark.parametrize("name", names("schedule"))
@pytest.mark.parametrize(
    "place", ["terms.hard.schedule", "terms.logits.schedule", "terms.logits.loss.temperature_schedule"]
)
def test_schedules_go_wherever_there_is_one(name: str, place: str) -> None:
    objective = instantiate(composed(f"+schedule@objective.{place}={name}").objective)
    assert objective.scheduled


@pytest.mark.parametrize("name", names("sample_temperature"))
@pytest.mark.parametrize("objective", ["default", "probability_shift"])
def test_temperatures_of_samples_go_into_the_logits_loss(name: str, objective: str) -> None:
    inner = "loss.loss" if objective == "probability_shift" else "loss"
    place = f"objective.terms.logits.{inner}.sample_temperature"
    loss = instantiate(composed(f"objective={objective}", f"+sample_temperature@{place}={name}").objective)
    assert name.upper() in repr(loss.declared["logits"].loss)


def test_any_data_set_becomes_a_further_task() -> None:
    cfg = composed("experiment=sst2_t4tiny", "+data@tasks.cola=cola", "+data@tasks.rte=rte", "data.root=/DIR")
    settle(cfg)
    tasks = task_configs(cfg)
    assert {name: own.data.name for name, own in tasks.items()} == {"sst2": "sst2", "cola": "cola", "rte": "rte"}
    assert {own.data.root for own in tasks.values()} == {"/DIR"}
    assert (cfg.task.metric, tasks["cola"].task.metric, tasks["rte"].task.metric) == ("mean", "matthews", "accuracy")
    assert cfg.callbacks.best.monitor == "val/mean"
    again = OmegaConf.create(plain(cfg))  # as it is saved, and read by every rank
    for name, own in task_configs(again).items():
        for key in ("data", "task", "teacher", "student", "objective", "optimizer"):
            assert plain(own[key]) == plain(tasks[name][key])


def test_a_tasks_values_are_its_own() -> None:
    cfg = composed(
        "data=synthetic", "+data@tasks.sst2=sst2", "tasks.sst2.data.num_labels=7", "data.limit=5",
        "+tasks.sst2.teacher.path=/DIR", "+tasks.sst2.objective.terms.logits.weight=0.5", "+tasks.sst2.temperature=2",
    )  # fmt: skip
    settle(cfg)
    synthetic, sst2 = task_configs(cfg).values()
    assert sst2.task.metrics.accuracy.num_classes == 7
    assert synthetic.task.metrics.accuracy.num_classes == 2
    assert (synthetic.teacher.path, sst2.teacher.path) == (None, "/DIR")
    assert (synthetic.objective.terms.logits.weight, sst2.objective.terms.logits.weight) == (1.0, 0.5)
    assert sst2.data.limit == 5
    assert (synthetic.temperature, sst2.temperature) == (4.0, 2)
    assert synthetic.callbacks.best.monitor == sst2.callbacks.best.monitor == "val/accuracy"
    saved = task_configs(OmegaConf.create(plain(cfg)))  # as a run that is resumed reads it, and every rank
    assert {task: plain(own) for task, own in saved.items()} == {
        "synthetic": plain(synthetic), "sst2": plain(sst2)
    }  # fmt: skip


def test_a_given_teacher_is_that_of_the_runs_own_data() -> None:
    cfg = composed("experiment=sst2_t4tiny", "+data@tasks.cola=cola", "teacher.path=/DIR")
    settle(cfg)
    assert {name: own.teacher.path for name, own in task_configs(cfg).items()} == {"sst2": "/DIR", "cola": None}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["+data@tasks.sst2=sst2"], "The data 'sst2' is the run's own already"),
        (["+tasks.mine.teacher.path=DIR"], r"tasks\.mine has no data\. Type \+data@tasks\.mine=NAME"),
        (["+data@tasks.cola=cola", "+tasks.cola.techer.path=x"], "A task has no 'techer' of its own.*Closest: teacher"),
        (["+data@tasks.cola=cola", "+tasks.cola.seed=3"], "A task has no 'seed' of its own"),
        (["+data@tasks.cola=cola", "+tasks.cola.teacher.pth=x"], r"no key 'tasks\.cola\.teacher\.pth'"),
        (["+data@tasks.cola=cola", "tasks.cola.data.tokenizer=x"], "All tasks have one student, and it one tokenizer"),
        (["+data@tasks.training=cola"], "A task cannot be named 'training'"),
        (["+data@tasks.cola=cola", "tau=-1"], "'tau' is the exponent of the tasks' sizes"),
        (["+data@tasks.cola=cola", "tasks.cola.task.mode=min"], "The mean of the tasks' main metrics has no sense"),
    ],
)
def test_tasks_that_cannot_be_are_a_sentence(typed: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settle(compose_config(["experiment=sst2_t4tiny", *typed]))


def test_matches_combine() -> None:
    terms = composed("match=[hidden_mse,hidden_smmd,attention_ce_mean]").objective.terms
    assert set(terms) == {"hard", "logits", "hidden_mse", "hidden_smmd", "attention_ce_mean"}


def test_hidden_mse_smmd_is_both_of_its_names() -> None:
    both = composed("match=hidden_mse_smmd").objective.terms
    assert plain(both) == plain(composed("match=[hidden_mse,hidden_smmd]").objective.terms)


def test_terms_can_be_weighed_removed_and_added() -> None:
    term = "{_target_: kd_lightning.Term, match: {_target_: kd_lightning.Match, student: logits, teacher: labels}}"
    terms = composed("objective.terms.logits.weight=0.5", "~objective.terms.hard").objective.terms
    assert (terms.logits.weight, "hard" in terms) == (0.5, False)
    assert composed(f"+objective.terms.mine={term}").objective.terms.mine.match.teacher == "labels"


def test_the_temperature_at_the_root_is_that_of_the_logits_term() -> None:
    loss = instantiate(composed("temperature=7").objective).declared["logits"].loss
    assert loss.temperature == 7.0


def test_two_experiments_do_not_mix() -> None:
    one, other = (plain(composed(f"experiment={name}")) for name in ("sst2_t4tiny", "quickstart"))
    assert (one["baseline"], other["baseline"]) == (False, True)
    assert "hidden_smmd" not in other["objective"]["terms"]


def test_known_keys_hold_values_groups_and_no_stranger() -> None:
    keys = known_keys(["experiment=sst2_t4tiny"])
    assert {"temperature", "objective.terms.logits.weight", "data.root", "match", "trainer.devices"} <= set(keys)
    assert "temprature" not in keys


# -- the recipes, as a table that is reviewed ------------------------------------------------------------------------


def recipe(name: str) -> dict[str, Any]:
    cfg = composed(f"experiment={name}")
    terms = {key: instantiate(node) for key, node in cfg.objective.terms.items()}
    return {
        "teacher": cfg.teacher.name,
        "student": cfg.student._target_.rpartition(".")[-1],
        "layers": cfg.student.get("layers"),
        "data": cfg.data.get("name", "synthetic"),
        "temperature": cfg.temperature,
        "epochs": cfg.trainer.max_epochs,
        "learning_rate": cfg.optimizer.lr,
        "baseline": cfg.baseline,
        "terms": {key: described(term) for key, term in terms.items()},
    }


def described(term: Term | MatchScheme) -> str:
    loss = type(term.loss).__name__
    if isinstance(term, Term):
        assert isinstance(term.match, Match)
        own = {k: v for k, v in vars(term.loss).items() if k == "temperature"}
        own |= {} if getattr(term.loss, "scaled", True) else {"scaled": False}
        how = ", ".join(f"{k}={v}" for k, v in own.items())
        return f"{term.weight:g} x {loss}({how}) {term.match.student} <- {term.match.teacher}"
    which = f"{term.layers}, every {term.every}" if term.every > 1 else term.layers
    return f"{term.weight:g} x {loss} {term.feature}, {which}, of {term.student_layers or 'any number of'} layers"


def test_experiments_are_what_they_were(update_golden: bool) -> None:
    """After a change on purpose: pytest tests/test_configs.py --update-golden, and review the difference."""
    now = {name: recipe(name) for name in sorted({*names("experiment"), *(n for n in MADE if n.startswith("sst2_"))})}
    if update_golden:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(OmegaConf.to_yaml(OmegaConf.create(now)))
    assert plain(OmegaConf.load(GOLDEN)) == now


def test_sst2_t4tiny_is_textbrewers_recipe() -> None:
    """T = 8, plain cross entropy without T², hidden MSE and MMD over all layers of four, no hard labels."""
    cfg = composed("experiment=sst2_t4tiny")
    logits, hard = cfg.objective.terms.logits, cfg.objective.terms.hard
    assert logits.loss == {
        "_target_": "kd_lightning.losses.SoftCrossEntropy",
        "temperature": 8.0,
        "scaled": False,
    }
    assert (logits.weight, hard.weight) == (1.0, 0.0)
    schemes = [instantiate(cfg.objective.terms[name]) for name in ("hidden_mse", "hidden_smmd")]
    assert [(type(s.loss).__name__, s.weight, s.student_layers) for s in schemes] == [
        ("HiddenMSE", 1.0, 4),
        ("NST", 1.0, 4),
    ]
