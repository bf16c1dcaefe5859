"""What `kd.export` writes, `kd.load` opens; what it should not or cannot open is one sentence."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import kd_lightning as kd
from kd_lightning.core.checksums import CHECKSUMS
from kd_lightning.core.errors import ConfigError

from ..toys import bert, words

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
NET = {
    "_target_": "torch.nn.Sequential",
    "_args_": [
        LINEAR | {"out_features": 4},
        {"_target_": "torch.nn.BatchNorm1d", "num_features": 4},
        {"_target_": "torch.nn.GELU", "approximate": "tanh"},
    ],
}
OWN = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, width, norm=nn.LayerNorm):
        super().__init__()
        self.words, self.norm, self.out = nn.Embedding(5, width), norm(width), nn.Linear(width, 5, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids):
        return self.out(self.norm(self.words(ids)))

def failing(**_):
    raise KeyError("width")

class Extra(nn.Linear):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's module of models, outside the package."""
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("own_nets")
    sys.modules.pop("own_nets", None)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(approximate="tanh"))


MODEL, BERT = net(), bert()


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


# -- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [bert, lambda: kd.students.bigru(BertConfig(vocab_size=30), hidden_size=12)])
def test_a_transformers_model_comes_back(tmp_path: Path, build: Callable[[], Any]) -> None:
    model, batch = build(), words()
    del batch["labels"]
    kd.check_exportable(model)
    found = kd.load(kd.export(model.bfloat16(), tmp_path / "student"))
    assert type(found) is type(model)
    assert not found.training
    assert same(found, model)
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}


def test_tied_weights_stay_tied(tmp_path: Path, own: Any) -> None:
    config = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    found: Any = kd.load(kd.export(BertForMaskedLM(BertConfig(**config)), tmp_path / "words"))
    assert found.cls.predictions.decoder.weight is found.bert.embeddings.word_embeddings.weight
    model = own.Tied(4)
    recipe = {"_target_": "own_nets.Tied", "width": 4}
    found = kd.load(kd.export(model, tmp_path / "own", recipe=recipe), trust=True)
    assert found.out.weight is found.words.weight
    assert same(found, model)


def test_a_plain_module_comes_back_by_its_recipe(tmp_path: Path) -> None:
    model = net()
    model(torch.randn(8, 3))  # running statistics
    folder = kd.export(model.half(), tmp_path / "student", recipe=NET)
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json", "model.safetensors", "model.yaml"]
    found = kd.load(folder)
    assert not found.training
    assert same(found, model)
    assert found[0].weight.dtype == torch.float16
    about = yaml.safe_load((folder / "model.yaml").read_text())
    assert list(about) == ["kd_version", "class", "recipe"]
    assert about["class"] == "torch.nn.modules.container.Sequential"
    assert about["recipe"] == NET


def test_a_checkpoint_comes_back_by_its_recipe(tmp_path: Path) -> None:
    model = net()
    torch.save({"state_dict": {f"student.{name}": v for name, v in model.state_dict().items()}}, tmp_path / "a.ckpt")
    assert same(kd.load(kd.export(tmp_path / "a.ckpt", tmp_path / "student", recipe=NET)), model)


def test_partial_arguments_and_names_of_functions_are_resolved(tmp_path: Path, own: Any) -> None:
    norm = {"_target_": "torch.nn.RMSNorm", "_partial_": True, "eps": 1e-3}
    recipe = {"_target_": "own_nets.Tied", "width": 4, "norm": norm, "_convert_": "all"}
    model = own.Tied(4, norm=lambda width: nn.RMSNorm(width, eps=1e-3))
    found: Any = kd.load(kd.export(model, tmp_path / "student", recipe=recipe), trust=True)
    assert (type(found.norm), found.norm.eps) == (nn.RMSNorm, 1e-3)


def test_loading_and_checking_leave_random_numbers_alone(tmp_path: Path) -> None:
    folders = [kd.export(net(), tmp_path / "net", recipe=NET), kd.export(bert(), tmp_path / "bert")]
    before = random_state()
    for folder in folders:
        kd.load(folder)
    kd.check_exportable(MODEL, NET)
    kd.check_exportable(BERT)
    assert random_state() == before


# -- trust ---------------------------------------------------------------------------------------------------------


def test_a_recipe_from_elsewhere_needs_trust(tmp_path: Path, own: Any) -> None:
    folder = kd.export(own.Tied(4), tmp_path / "student", recipe={"_target_": "own_nets.Tied", "width": 4})
    sys.modules.pop("own_nets")
    with pytest.raises(ConfigError, match=r"would import and call 'own_nets\.Tied'.*trust=True"):
        kd.load(folder)
    assert "own_nets" not in sys.modules
    assert kd.load(folder, trust=True)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.parallel.distributed.os.system",
        "torch.hub.load",
        "torch.nn.functional.relu",
        "kd_lightning.core.files.write_text",
        "kd_lightning.models.pretrained",
        "kd_lightning.models.saved",
        "kd_lightning.models.export.export",
        "kd_lightning.training.module.DistillationModule.load_from_checkpoint",
        ["torch.nn.Linear"],
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_only_models_of_ours_and_of_pytorch_are_trusted(tmp_path: Path, target: Any, nested: bool) -> None:
    folder = unrecorded(kd.export(nn.Linear(3, 2), tmp_path / "student", recipe=LINEAR))
    call = {"_target_": target, "_args_": ["touch executed"]}
    write_recipe(folder, LINEAR | {"bias": [call]} if nested else call)
    with pytest.raises(ConfigError, match=r"would import and call .*which is no model of torch\.nn or kd_lightning"):
        kd.load(folder)


def test_builders_and_modules_of_ours_are_trusted() -> None:
    from kd_lightning.models.recipe import _is_model

    assert _is_model(kd.students.t3)
    assert _is_model(kd.TappedModel)
    assert not _is_model(BertForSequenceClassification)
    assert not _is_model(kd.students.pretrained)


# -- damaged folders -----------------------------------------------------------------------------------------------


def write_recipe(folder: Path, recipe: Any) -> None:
    about = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(about | {"recipe": recipe}))


def unrecorded(folder: Path) -> Path:
    """An export as another library would have written it: no checksum tells that a file was changed."""
    (folder / CHECKSUMS).unlink()
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def other_weights(folder: Path, **tensors: Tensor) -> None:
    save_file(tensors, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: f.rename(f.with_name("moved")), "There is no folder"),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "Cannot load|Cannot read the weights"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "Cannot load|Cannot read the weights"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "Cannot load|Cannot read the weights"),
    "other weights": (lambda f: other_weights(f, strange=torch.ones(2)), "do not fit|that the weights do not fit"),
}
DAMAGE_OF_BERT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut config": (lambda f: cut(f / "config.json"), r"config\.json' is damaged"),
    "empty config": (lambda f: (f / "config.json").write_text(""), r"config\.json' is damaged"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json' is damaged"),
    "binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), r"config\.json' is damaged"),
    "no class": (lambda f: edit(f / "config.json", architectures=None), "does not name the model's class"),
    "unknown class": (lambda f: edit(f / "config.json", architectures=["Nobody"]), "is a 'Nobody', which is no"),
    "no model": (lambda f: edit(f / "config.json", architectures=["pipeline"]), "is a 'pipeline', which is no"),
    "other labels": (lambda f: edit(f / "config.json", id2label={"0": "a"}, label2id={"a": 0}), "Cannot load|do not f"),
    "deeper": (lambda f: edit(f / "config.json", num_hidden_layers=3), "do not fit .*layer.2.*is missing"),
    "shallower": (lambda f: edit(f / "config.json", num_hidden_layers=1), "do not fit .*has no '.*layer.1"),
    "a word": (lambda f: edit(f / "config.json", hidden_size="wide"), "Cannot load .* as a BertForSequenceClassif"),
}
DAMAGE_OF_NET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut recipe": (lambda f: (f / "model.yaml").write_text("recipe: [1,"), "model.yaml' is damaged"),
    "empty recipe": (lambda f: (f / "model.yaml").write_text(""), "model.yaml' is damaged"),
    "binary recipe": (lambda f: (f / "model.yaml").write_bytes(b"\xff\xfe\x00"), "model.yaml' is damaged"),
    "python in it": (lambda f: (f / "model.yaml").write_text("recipe: !!python/name:os.system"), "is damaged"),
    "no target": (lambda f: write_recipe(f, {"in_features": 3}), "must be a mapping with `_target_`"),
    "unknown name": (lambda f: write_recipe(f, LINEAR | {"_target_": "torch.nn.Liner"}), "no 'Liner'. Closest: Linear"),
    "wrong argument": (lambda f: write_recipe(f, LINEAR | {"width": 2}), "torch.nn.Linear raised TypeError"),
    "strange key": (lambda f: write_recipe(f, LINEAR | {"_recursive_": False}), "has no key '_recursive_'"),
    "a partial": (lambda f: write_recipe(f, LINEAR | {"_partial_": True}), "must build a torch.nn.Module, but"),
    "another model": (
        lambda f: write_recipe(f, LINEAR),
        "that the weights do not fit: '.*' is missing",
    ),
    "unknown package": (lambda f: write_recipe(f, {"_target_": "kd_lightning.nothing.Net"}), "has no 'nothing'"),
}


@pytest.mark.parametrize("what", [*DAMAGE, *DAMAGE_OF_BERT])
def test_a_damaged_transformers_folder_is_one_sentence(tmp_path: Path, what: str) -> None:
    damage, message = (DAMAGE | DAMAGE_OF_BERT)[what]
    folder = unrecorded(kd.export(BERT, tmp_path / "student"))
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        kd.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", [*DAMAGE, *DAMAGE_OF_NET])
def test_a_damaged_folder_with_a_recipe_is_one_sentence(tmp_path: Path, what: str) -> None:
    damage, message = (DAMAGE | DAMAGE_OF_NET)[what]
    folder = unrecorded(kd.export(MODEL, tmp_path / "student", recipe=NET))
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        kd.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "checksums.json", "vocab.txt"])
@pytest.mark.parametrize("share", [0, 0.5, -1])
def test_whatever_file_of_an_export_is_cut_it_is_named(tmp_path: Path, name: str, share: float) -> None:
    class Words:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "vocab.txt").write_text("[PAD]\ngood\nbad\n")  # half a vocabulary is one too

    folder = kd.export(BERT, tmp_path / "student", processor=Words())
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content)) if share >= 0 else -1])
    with pytest.raises(ConfigError, match=f"What is in {folder} cannot be loaded .*'{name}'"):
        kd.load(folder)


def test_a_changed_file_of_an_export_is_named_and_may_be_meant(tmp_path: Path) -> None:
    folder = kd.export(BERT, tmp_path / "student")
    edit(folder / "config.json", id2label={0: "no", 1: "yes", 2: "both"})
    with pytest.raises(ConfigError, match=r"'config\.json' has .* instead of|delete checksums\.json"):
        kd.load(folder)
    assert kd.load(unrecorded(folder)).config.id2label[2] == "both"


def test_other_folders_are_explained(tmp_path: Path) -> None:
    weights = kd.export(MODEL, tmp_path / "run" / "student")
    with pytest.raises(ConfigError, match=r"weights without the recipe .*safetensors\.torch\.load_model.*recipe="):
        kd.load(weights)
    kd.export(MODEL, weights, recipe=NET)
    with pytest.raises(ConfigError, match=r"holds no exported model .*Closest: .*/run/student\."):
        kd.load(tmp_path / "run")
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "model.onnx").touch()
    with pytest.raises(ConfigError, match=r"open it with onnxruntime\.InferenceSession\('.*model\.onnx'\)"):
        kd.load(tmp_path / "graph")


def test_remote_code_in_a_configuration_is_not_run(tmp_path: Path) -> None:
    folder = unrecorded(kd.export(BERT, tmp_path / "student"))
    edit(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "modeling.Evil"})
    (folder / "modeling.py").write_text("raise SystemExit('executed')")
    assert type(kd.load(folder)) is BertForSequenceClassification


# -- before training -----------------------------------------------------------------------------------------------


def test_what_can_be_exported_passes(own: Any) -> None:
    kd.check_exportable(BERT)
    kd.check_exportable(torch.compile(BERT))
    kd.check_exportable(MODEL)
    kd.check_exportable(MODEL, NET, required=True)
    kd.check_exportable(own.Tied(4), {"_target_": "own_nets.Tied", "width": 4}, required=True)


def test_what_cannot_be_exported_is_refused(own: Any) -> None:
    with pytest.raises(ConfigError, match=r"A Sequential is no Transformers model, .* needs the recipe"):
        kd.check_exportable(MODEL, required=True)
    with pytest.raises(ConfigError, match=r"'_extra_state' in the student's state dict is a dict: only dense tensors"):
        kd.check_exportable(own.Extra(2, 2))
    wider = [NET["_args_"][0] | {"out_features": 5}, *NET["_args_"][1:]]
    with pytest.raises(ConfigError, match=r"'0\.weight' is \[4, 3\], but \[5, 3\] in the model"):
        kd.check_exportable(MODEL, NET | {"_args_": wider})
    with pytest.raises(ConfigError, match=r"own_nets\.failing raised KeyError: 'width'"):
        kd.check_exportable(MODEL, {"_target_": "own_nets.failing"})
    with pytest.raises(ConfigError, match=r"cannot import 'nowhere' of 'nowhere\.Net'"):
        kd.check_exportable(MODEL, {"_target_": "nowhere.Net"})
    with pytest.raises(ConfigError, match="must be a dotted name"):
        kd.check_exportable(MODEL, {"_target_": "Net"})
    with pytest.raises(ConfigError, match="must be plain data"):
        kd.check_exportable(MODEL, {"_target_": "torch.nn.Sequential", "_args_": [nn.Linear(3, 4)]})


def test_a_transformers_model_that_its_configuration_does_not_rebuild_is_refused() -> None:
    model = bert()
    model.classifier = nn.Linear(16, 7)
    with pytest.raises(ConfigError, match=r"do not fit a plain BertForSequenceClassification: 'classifier\.weight' is"):
        kd.check_exportable(model)

    class BertForTokenClassification(BertForSequenceClassification):
        pass

    with pytest.raises(ConfigError, match="called BertForTokenClassification, as Transformers' own is"):
        kd.check_exportable(BertForTokenClassification(bert().config))


def test_a_recipe_that_does_not_rebuild_the_model_is_refused_when_it_is_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="builds a Linear that the weights do not fit"):
        kd.export(MODEL, tmp_path / "student", recipe=LINEAR)
    assert not list(tmp_path.iterdir())
