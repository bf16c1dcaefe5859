"""Every mistake in what was typed, or in a configuration file, is one sentence that names what to type instead."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kd_lightning.cli.checks import check_targets
from kd_lightning.cli.configs import compose_config, known_keys
from kd_lightning.cli.messages import one_sentence
from kd_lightning.cli.settle import check_root_keys, settle
from kd_lightning.core.errors import ConfigError

FILES = {
    "train.yaml": """
defaults: [messages_schema, {data: synthetic}, {match: [hidden_mse]}, _self_, {experiment: null}]
""",
    "data/synthetic.yaml": "_target_: torch.nn.Linear\nin_features: 2\nout_features: 3\n",
    "data/sst2.yaml": "_target_: torch.nn.Linear\nin_features: ???\nout_features: ${temperatur}\n",
    "match/hidden_mse.yaml": "# @package objective.terms\nhidden: {_target_: torch.nn.ReLU, inplace: true}\n",
    "match/nst.yaml": "# @package objective.terms\nnst: {_target_: torch.nn.ReLU}\n",
    "experiment/mine.yaml": "# @package _global_\ntemprature: 4\n",
    "experiment/group.yaml": "# @package _global_\ndefaults: [{override /dta: sst2}]\n",
    "experiment/yaml.yaml": "# @package _global_\ntemperature: [\n",
}

KNOWN = ["temperature", "seed", "data", "data.in_features", "match", "experiment", "trainer.max_epochs"]


@dataclass
class Schema:
    temperature: float = 1.0
    seed: int = 0
    baseline: bool = False
    data: Any = None
    trainer: Any = None
    objective: Any = None


@pytest.fixture
def configs(tmp_path: Path) -> Iterator[Path]:
    ConfigStore.instance().store("messages_schema", Schema)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield tmp_path


def said(*overrides: str) -> str | None:
    """Compose, check and resolve as the command does; return the sentence of the first error."""
    try:
        cfg = compose("train", overrides=list(overrides))
        check_root_keys(cfg, Schema)
        check_targets(cfg)
        OmegaConf.resolve(cfg)
        instantiate(cfg.data)
    except Exception as error:
        return one_sentence(error, lambda: KNOWN)
    return "no error"


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("temprature=4", "There is no key 'temprature'. Closest: temperature"),
        ("+temprature=4", "There is no key 'temprature' at the root of the configuration. Closest: temperature"),
        ("++temprature=4", "There is no key 'temprature' at the root of the configuration. Closest: temperature"),
        ("~temprature", "There is no key or config group 'temprature'. Closest: temperature"),
        ("max_epochs=3", "There is no key 'max_epochs'. Closest: trainer.max_epochs."),
        ("data.in_featurs=3", "There is no key 'data.in_featurs'. Closest: data.in_features"),
        (
            "objective.terms.hiden.inplace=1",
            "There is no key 'objective.terms.hiden'. Closest: objective.terms.hidden.",
        ),
        ("trainer.max_epochs=1", "There is no key 'trainer.max_epochs'. It is there by default, but not"),
        ("temperature.x=1", "There is no key 'temperature.x': 'temperature' is a single value."),
        ("+temperature=4", "'temperature' is already there: type temperature=VALUE, without +."),
        ("temperature=hot", "'temperature' cannot be 'hot': it must be a number."),
        ("seed=1.5", "'seed' cannot be 1.5: it must be a whole number."),
        ("seed=null", "'seed' cannot be null."),
        ("baseline=maybe", "'baseline' cannot be 'maybe': it must be true or false."),
        ("data=sst3", "There is no 'sst3' in config group 'data'. Closest: sst2."),
        ("match=[hidden_mse,nsst]", "There is no 'nsst' in config group 'match'. Closest: nst."),
        ("experiment=mien", "There is no 'mien' in config group 'experiment'. Closest: mine"),
        ("experiment=mine", "There is no key 'temprature', which experiment/mine.yaml sets. Closest: temperature"),
        ("experiment=group", "There is no key or config group 'dta', which experiment/group.yaml names. Closest: data"),
        ("dta=sst2", "There is no key 'dta'. Closest: data"),
        ("+dta=sst2", "There is no key 'dta' at the root of the configuration. Closest: data"),
        ("~dta=sst2", "There is no key or config group 'dta'. Closest: data"),
        ("~data=nope", "'~data=nope' removes nothing, because nope is not chosen in data."),
        ("+data=sst2", "'data' is already chosen: type data=sst2, without +."),
        ("++data=sst2", "'++data=sst2' chooses from a config group: type data=sst2, without ++."),
        ("temperature=1,2", "'temperature=1,2' are several values: add -m for one run each"),
        ("temperature", "'temperature' has no value: type temperature=VALUE."),
        ("temperature=[1,2", "'temperature=[1,2' cannot be read as key=value"),
        ("--fast", "There is no option '--fast'"),
        ("data=sst2", "The interpolation ${temperatur} points to nothing. Closest: temperature"),
        ("data.in_features=???", "'data.in_features' has no value: type data.in_features=VALUE."),
        ("data.in_features=${oc.env:KD_NOPE}", "The environment variable KD_NOPE, which the configuration asks for"),
        ("seed=${data._target_}", "'seed' cannot be 'torch.nn.Linear': it must be a whole number."),
        ("+data.bais=true", "'data.bais' is no argument of torch.nn.Linear. Closest: bias."),
        (
            "+objective.terms.extra.weight=1",
            "'objective.terms.extra' has no _target_, so nothing would be built from it.",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_type(typed: str, sentence: str) -> None:
    found = said(typed)
    assert found is not None
    assert found.startswith(sentence), found
    assert "\n" not in found
    assert "use +" not in found


@pytest.mark.usefixtures("configs")
def test_what_is_right_is_left_in_peace() -> None:
    assert (
        said("temperature=4", "data.in_features=5", "match=[hidden_mse,nst]", "objective.terms.hidden=null")
        == "no error"
    )


def test_a_file_that_is_not_yaml_is_named_with_its_line(configs: Path) -> None:
    found = said("experiment=yaml")
    assert found is not None
    assert found.startswith(f"{configs / 'experiment' / 'yaml.yaml'}, line 3 is not valid YAML")


def test_a_wrong_key_is_explained_without_a_list_of_known_ones(configs: Path) -> None:
    with pytest.raises(Exception, match="Could not override") as caught:
        compose("train", overrides=["temprature=4"])
    assert one_sentence(caught.value) == "There is no key 'temprature'. Closest: temperature, trainer."


# -- building ---------------------------------------------------------------------------------------------------


def refuses(width: int) -> None:
    raise ConfigError(f"A width of {width} is too small.")


def crashes() -> None:
    raise ZeroDivisionError("a bug")


HERE = {"refuses": refuses, "crashes": crashes}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("kd_messages_test")
    vars(module).update(HERE)
    monkeypatch.setitem(sys.modules, "kd_messages_test", module)


def built(**node: Any) -> str | None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        instantiate(OmegaConf.create({"student": node}))
    return one_sentence(caught.value)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"_target_": "kd_messages_test.refuses", "width": 3}, "'student': A width of 3 is too small."),
        (
            {"_target_": "torch.nn.Linear", "in_featurs": 3},
            "'student.in_featurs' is no argument of torch.nn.modules.linear.Linear. Closest: in_features",
        ),
        (
            {"_target_": "torch.nn.Linear", "in_features": 3},
            "'student' (torch.nn.modules.linear.Linear) cannot be built:",
        ),
        (
            {"_target_": "torch.nn.Linea"},
            "'student' (torch.nn.Linea) cannot be built: No module named 'torch.nn.Linea'.",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": "???"}, "'student.in_features' has no value"),
    ],
)
def test_what_cannot_be_built_is_named_by_its_place(node: dict[str, Any], sentence: str) -> None:
    found = built(**node)
    assert found is not None
    assert found.startswith(sentence), found


@pytest.mark.usefixtures("here")
def test_a_bug_keeps_its_traceback() -> None:
    assert built(_target_="kd_messages_test.crashes") is None
    assert one_sentence(RuntimeError("shapes differ")) is None


def test_our_own_errors_are_told_as_they_are() -> None:
    assert one_sentence(ConfigError("One\n  two.")) == "One two."


def test_what_lightning_says_of_a_missing_device_is_passed_on() -> None:
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    assert one_sentence(MisconfigurationException("No GPU\nwas found")) == "No GPU was found."


# -- targets ----------------------------------------------------------------------------------------------------


def config(**nodes: Any) -> DictConfig:
    return OmegaConf.create(nodes)


@pytest.mark.parametrize(
    ("cfg", "sentence"),
    [
        (
            config(trainer={"_target_": "lightning.pytorch.Trainer", "max_step": 3}),
            "'trainer.max_step' is no argument of lightning.pytorch.Trainer. Closest: max_steps",
        ),
        (
            config(optimizer={"_target_": "torch.optim.AdamW", "_partial_": True, "learning_rate": 3}),
            "'optimizer.learning_rate' is no argument of torch.optim.AdamW",
        ),
        (
            config(a={"b": [{"_target_": "torch.nn.Linea"}]}),
            "'a.b[0]._target_' is 'torch.nn.Linea', but torch.nn has no",
        ),
        (
            config(a={"_target_": "torhc.nn.Linear"}),
            "'a._target_' is 'torhc.nn.Linear', but there is no module 'torhc'.",
        ),
        (config(a={"_target_": "torch.nn"}), "'a._target_' is 'torch.nn', which cannot be called."),
        (config(a={"_target_": 3}), "'a._target_' is 3, but must be"),
        (
            config(a={"_target_": "torch.nn.Linear", "_args_": [1], "in_features": 2}),
            "'a.in_features' is given twice to torch.nn.Linear",
        ),
        (config(a={"_target_": "math.gcd", "n": 2}), "'a.n' is no argument of math.gcd."),
        (config(a={"_target_": "torch.nn.Identity", "_args_": [1], "x": 1}), None),
        (
            config(a={"_target_": "torch.nn.ReLU", "_args_": [1, 2]}),
            "'a._args_' has 2 values, but torch.nn.ReLU takes at",
        ),
        (
            config(callbacks={"stop": {"patience": 3}, "seed": {"_target_": "torch.nn.ReLU"}}),
            "'callbacks.stop' has no _target_",
        ),
        (config(logger={"csv": True}), "'logger.csv' has no _target_"),
        (config(objective={"terms": {"hard": {"weight": 1}}}), "'objective.terms.hard' has no _target_"),
        (config(a={"_target_": "torch.nn.Linear", "device": {"_target_": "torch.device", "_args_": ["cpu"]}}), None),
        (config(callbacks={"stop": None}, logger=None, objective={"terms": {"hard": None}}), None),
        (config(logger={"_target_": "torch.nn.ReLU", "inplace": True}), None),
        (config(name="torch.nn.Linear", a={"_target_": "${name}", "in_features": "???"}, b="${a}"), None),
        (config(a={"_target_": "builtins.dict", "anything": 1, "_convert_": "all", "_recursive_": False}), None),
    ],
)
def test_targets_are_bound_without_being_called(cfg: DictConfig, sentence: str | None) -> None:
    if sentence is None:
        check_targets(cfg)
        return
    with pytest.raises(ConfigError) as caught:
        check_targets(cfg)
    assert str(caught.value).startswith(sentence), str(caught.value)


def test_a_module_that_breaks_on_import_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kd_broken.py").write_text("import kd_surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs 'kd_surely_not_installed': install it"):
        check_targets(config(a={"_target_": "kd_broken.Thing"}))


def test_a_decorated_function_is_bound_to_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(width: int) -> int:
        return width

    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        return plain(*args, **kwargs)

    monkeypatch.setattr("math.kd_wrapped", wrapped, raising=False)
    with pytest.raises(ConfigError, match=r"'a\.widht' is no argument of math\.kd_wrapped\. Closest: width"):
        check_targets(config(a={"_target_": "math.kd_wrapped", "widht": 3}))


def test_a_value_that_must_be_typed_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"'student\.name' has no value: type student\.name=VALUE\."):
        settle(compose_config(["student=pretrained"]))


# -- what the arguments of a class make of a wrong key ------------------------------------------------------------


def told(*typed: str) -> str | None:
    """Compose the real configuration, and return the sentence of the first error."""
    try:
        check_targets(compose_config(list(typed)))
    except Exception as error:
        return one_sentence(error, known_keys)
    return "no error"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["data=squad", "data.strid=5"], "no key 'data.strid'. Closest: data.stride"),
        (["data=squad", "+data.strid=5"], "'data.strid' is no argument of kd_lightning.data.QuestionAnswering. Close"),
        (["data=squad", "data.max_lenght=64"], "no key 'data.max_lenght'. Closest: data.max_length"),
        (["data=squad", "data.group_by_lengt=1"], "no key 'data.group_by_lengt'. Closest: +data.group_by_length"),
        (["data=squad", "data.group_by_length=1"], "no key 'data.group_by_length'. Type +data.group_by_length="),
        (["data=mlm", "data.max_lenght=64"], "no key 'data.max_lenght'. Closest: data.max_length"),
        (["data=rte", "data.max_lenght=64"], "no key 'data.max_lenght'. Closest: data.max_length"),
        (["data=rte", "data.splits.test=test"], "no key 'data.splits.test'. Type +data.splits.test=VALUE."),
        (["data=rte", "data.splits.tset=test"], "no key 'data.splits.tset'. Closest: +data.splits.test=VALUE."),
        (["data=conll2003", "data.splits.test=test"], "no key 'data.splits.test'. Type +data.splits.test=VALUE."),
        (["data=rte", "data.rename.premise=a"], "no key 'data.rename.premise'. Type +data.rename.premise=VALUE"),
        (["student=t3", "student.hidden_dropout_prob=0"], "no key 'student.hidden_dropout_prob'. Type +student."),
        (["student=t3", "student.layer=skip"], "no key 'student.layer'. Closest: student.layers"),
        (["data=rte", "data.max_epochs=3"], "no key 'data.max_epochs'. Closest: teacher.trainer.max_epochs"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_answered_with_what_its_class_takes(typed: list[str], sentence: str) -> None:
    found = told(*typed)
    assert found is not None
    assert found.startswith((sentence, f"There is {sentence}")), found


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("data.unlabelled=0.5", "'data.unlabelled' cannot be 0.5: it must be a text. Quote it twice, as in 'data.unl"),
        ("data.text=2", "'data.text' cannot be 2: it must be a text or a list."),
        ("data.labels=[0,1]", "'data.labels[0]' cannot be 0: it must be a text."),
        ("data.multilabel=nan", "'data.multilabel' cannot be nan: it must be true or false."),
        ("data.rename=1", "'data.rename' cannot be 1: it must be a mapping."),
        ("data.num_workers=null", "'data.num_workers' cannot be null: it must be a whole number."),
        ("callbacks.best.monitor=inf", "'callbacks.best.monitor' cannot be inf: it must be a text."),
        ("trainer.log_every_n_steps={}", "'trainer.log_every_n_steps' cannot be {}: it must be a whole number."),
        ("objective.terms.hard.match.student=[]", "no error"),  # a list, which the match itself refuses
    ],
)
def test_a_value_of_another_kind_names_its_key(typed: str, sentence: str) -> None:
    found = told("data=sst2", typed)
    assert found is not None
    assert found.startswith(sentence), found


def test_early_stopping_on_a_score_that_is_not_there_is_one_sentence() -> None:
    text = "Early stopping conditioned on metric `val/nope` which is not available. Pass in `val/accuracy`"
    assert one_sentence(RuntimeError(text), lambda: KNOWN) == text


def test_a_function_may_have_the_name_of_its_module() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "kd_lightning.models.cifar_resnet", "dpeth": 20})
    found = one_sentence(raised.value, lambda: KNOWN)
    assert found is not None
    assert found.startswith("'dpeth' is no argument of kd_lightning.models.cifar.resnet.cifar_resnet. Closest: depth")


def test_what_a_class_does_not_take_is_not_offered() -> None:
    found = told("data=mlm", "data.unlabelled=more.txt")
    assert found is not None
    assert found.startswith("There is no key 'data.unlabelled'.")
    assert "+" not in found
