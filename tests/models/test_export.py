from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from kd_lightning import DistillationModule, FeatureTap, Match, Objective, TappedModel, Term, students
from kd_lightning.core.errors import ConfigError
from kd_lightning.models.export import export

CONFIG = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def bert(**fields: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**(CONFIG | {"intermediate_size": 36} | fields))).eval()


def bigru() -> nn.Module:
    torch.manual_seed(0)
    return students.bigru(BertConfig(vocab_size=40), hidden_size=12, num_labels=3).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits


def distillation(student: nn.Module) -> DistillationModule:
    objective = Objective({"hidden": Term(Match("hidden.1", "hidden.2"), nn.MSELoss())})
    return DistillationModule(student, bert(), objective)


def checkpoint(path: Path, module: DistillationModule) -> Path:
    """Write what Lightning would: the module's weights and whatever its hook adds."""
    content = {"state_dict": module.state_dict(), "hyper_parameters": {}, "epoch": 1}
    module.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def onnx_outputs(folder: Path, **inputs: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(value) for value in found]


# -- huggingface ---------------------------------------------------------------------------------------------------


@pytest.mark.slow  # cli/test_command.py does the same with what a run has exported
def test_an_exported_bert_loads_in_a_fresh_interpreter_without_the_library(tmp_path: Path) -> None:
    export(distillation(bert()), tmp_path / "student")
    torch.save((IDS, MASK, logits(bert())), tmp_path / "expected.pt")
    code = """
import sys, torch
from transformers import AutoModelForSequenceClassification
ids, mask, expected = torch.load("expected.pt")
model = AutoModelForSequenceClassification.from_pretrained("student").eval()
torch.testing.assert_close(model(ids, mask).logits, expected)
assert "kd_lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=tmp_path)


def test_a_tapped_or_compiled_student_is_exported_as_the_plain_one(tmp_path: Path) -> None:
    plain = export(bert(), tmp_path / "plain")
    tapped, partly = bert(), bert()
    partly.bert.encoder = torch.compile(partly.bert.encoder)
    with FeatureTap(tapped, ["hidden.1", "attention.2"]):
        under_tap = export(tapped, tmp_path / "tapped")
    wrappers = [under_tap, export(torch.compile(bert()), tmp_path / "compiled"), export(partly, tmp_path / "partly")]
    wrappers.append(export(TappedModel(bert(), ["hidden.1"]), tmp_path / "standing"))
    for folder in wrappers:
        assert (folder / "config.json").read_text() == (plain / "config.json").read_text()
        assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_exporting_changes_neither_the_model_nor_the_random_numbers(tmp_path: Path) -> None:
    model = bert().train()
    config, state = model.config.to_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    export(model, tmp_path / "student")
    assert torch.equal(torch.rand(3), expected)
    assert model.config.to_dict() == config
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_keep_their_dtype(tmp_path: Path) -> None:
    folder = export(bert().bfloat16(), tmp_path / "student")
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForSequenceClassification.from_pretrained(folder).dtype == torch.bfloat16


def test_nothing_in_the_files_names_the_library(tmp_path: Path) -> None:
    folder = export(distillation(bert()), tmp_path / "student")
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json", "config.json", "model.safetensors"]
    assert not any("kd" in (folder / name).read_text() for name in ("config.json", "checksums.json"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_tokenizer_is_saved_beside_the_model(tmp_path: Path) -> None:
    folder = export(bert(), tmp_path / "student", tokenizer=tokenizer())
    assert AutoTokenizer.from_pretrained(folder)("good bad")["input_ids"] == [2, 3]


def test_a_tokenizer_is_saved_the_same_whatever_it_read_last(tmp_path: Path) -> None:
    used = tokenizer()
    first = export(bert(), tmp_path / "unused", processor=used)
    texts = ["the plot was good", "a film"]
    cut = used(texts, truncation=True, max_length=4, padding="max_length")
    second = export(bert(), tmp_path / "used", processor=used)
    names = {file.name for file in first.glob("token*")}
    assert "tokenizer.json" in names
    for name in names:
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
    assert used(texts, truncation=True, max_length=4, padding="max_length") == cut


def test_an_image_processor_is_saved_beside_the_model(tmp_path: Path) -> None:
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)

    class Processor:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "preprocessor_config.json").write_text("{}")
            (folder / "processor_config.json").write_text("{}")

    for _ in range(2):  # what was written is known as an export
        folder = export(ViTForImageClassification(config), tmp_path / "student", processor=Processor())
    assert (folder / "preprocessor_config.json").is_file()


# -- state_dict ----------------------------------------------------------------------------------------------------


def test_a_state_dict_loads_strictly_where_tensors_are_tied(tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**CONFIG, intermediate_size=36))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    folder = export(model, tmp_path / "student", format="state_dict")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_any_module_can_be_exported_as_a_state_dict(tmp_path: Path) -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4))
    folder = export(student, tmp_path / "student", format="state_dict")
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    twin.load_state_dict(load_file(folder / "model.safetensors"))
    assert torch.equal(twin[0].weight, student[0].weight)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    student = nn.ModuleDict({"module": nn.Linear(2, 2)})
    folder = export(student, tmp_path / "student", format="state_dict")
    assert set(load_file(folder / "model.safetensors")) == {"module.weight", "module.bias"}


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [bert, bigru])
def test_a_checkpoint_exports_what_the_module_would(tmp_path: Path, build: Any) -> None:
    student = build()
    module = DistillationModule(student, None, Objective({"loss": Term(Match("loss"), nn.Identity())}))
    live = export(module, tmp_path / "live")
    stored = export(checkpoint(tmp_path / "last.ckpt", module), tmp_path / "stored")
    found = AutoModelForSequenceClassification.from_pretrained(stored).eval()
    torch.testing.assert_close(logits(found), logits(student.eval()))
    assert (live / "config.json").read_text() == (stored / "config.json").read_text()
    assert (live / "model.safetensors").read_bytes() == (stored / "model.safetensors").read_bytes()


def test_a_checkpoint_of_another_model_is_exported_as_a_state_dict_only(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"student.weight": torch.ones(2, 2), "objective.w": torch.ones(1)}}, path)
    folder = export(path, tmp_path / "student", format="state_dict")
    assert set(load_file(folder / "model.safetensors")) == {"weight"}
    with pytest.raises(ConfigError, match="needs a Transformers model"):
        export(path, tmp_path / "other", format="huggingface")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"model.weight": torch.ones(1)}}, "holds no student"),
        ({"state_dict": {}, "extra": Payload()}, "as a checkpoint of plain data"),
        ({"state_dict": {"student.w": torch.ones(1)}, "kd_student": {"class": "pipeline", "config": {}}}, "'pipeline'"),
        ({"state_dict": {"student.w": torch.ones(1)}, "kd_student": {"class": "Nobody", "config": {}}}, "'Nobody'"),
    ],
)
def test_a_foreign_checkpoint_is_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "foreign.ckpt")
    with pytest.raises(ConfigError, match=message):
        export("foreign.ckpt", "student")
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.ckpt"]


def test_remote_code_named_in_a_checkpoint_is_dropped(tmp_path: Path) -> None:
    model = bert()
    config = model.config.to_dict() | {"auto_map": {"AutoModel": "somebody/repository--modeling.Model"}}
    state = {f"student.{name}": value for name, value in model.state_dict().items()}
    content = {"state_dict": state, "kd_student": {"class": "BertForSequenceClassification", "config": config}}
    torch.save(content, tmp_path / "last.ckpt")
    folder = export(tmp_path / "last.ckpt", tmp_path / "student")
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


# -- onnx ----------------------------------------------------------------------------------------------------------


def test_bert_as_onnx_respects_padding_at_any_shape(tmp_path: Path) -> None:
    model = bert().bfloat16()
    with FeatureTap(model, ["attention.1"]):
        folder = export(model, tmp_path / "student", format="onnx")
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json", "model.onnx"]
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    inputs = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": segments}
    found = onnx_outputs(folder, **inputs)[0]
    with torch.no_grad():
        torch.testing.assert_close(found, model.float()(**inputs).logits, rtol=1e-4, atol=1e-5)
    short = onnx_outputs(folder, **{name: value[1:, :2] for name, value in inputs.items()})[0]
    torch.testing.assert_close(short, found[1:], rtol=1e-4, atol=1e-5)


def test_a_bigru_as_onnx_respects_padding_at_any_shape(tmp_path: Path) -> None:
    model = bigru()
    folder = export(model, tmp_path / "student", format="onnx", tokenizer=tokenizer())
    found = onnx_outputs(folder, input_ids=IDS, attention_mask=MASK)[0]
    torch.testing.assert_close(found, logits(model), rtol=1e-4, atol=1e-5)
    long = [torch.cat([part, torch.zeros(2, 30, dtype=torch.long)], dim=1) for part in (IDS, MASK)]
    padded = onnx_outputs(folder, input_ids=long[0], attention_mask=long[1])[0]
    torch.testing.assert_close(padded, found, rtol=1e-4, atol=1e-5)
    assert (folder / "tokenizer.json").is_file()


def test_an_image_model_is_exported_as_onnx(tmp_path: Path) -> None:
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = ViTForImageClassification(config).eval()
    folder = export(model, tmp_path / "student", format="onnx")
    images = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            onnx_outputs(folder, pixel_values=images)[0], model(images).logits, rtol=1e-4, atol=1e-5
        )


class TwoHeads(nn.Module):
    """Images and a number for each to two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.boxes = nn.Conv2d(3, 4, 3), nn.Linear(5, 7), nn.Linear(5, 4)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor, size: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        states = self.norm(self.body(image)).relu().mean((2, 3))
        states = torch.cat([states, size[:, None]], dim=1)
        return self.classes(states), self.boxes(states)


@pytest.mark.parametrize(
    ("rows", "by_name"),
    [
        (1, True),
        (2, False),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in [(1, False), (2, True), (5, True)]),
    ],
)
def test_any_module_is_exported_as_onnx_by_example_inputs(tmp_path: Path, rows: int, by_name: bool) -> None:
    model = TwoHeads().eval()
    image, size = torch.rand(rows, 3, 8, 6), torch.rand(rows)
    example = {"size": size, "image": image} if by_name else (image, size)
    folder = export(model.train(), tmp_path / "student", format="onnx", example=example)
    assert model.training
    inputs = {"image": torch.rand(4, 3, 8, 6), "size": torch.rand(4)}
    with torch.no_grad():
        expected = model.eval()(**inputs)
    for mine, theirs in zip(expected, onnx_outputs(folder, **inputs), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)


def test_token_inputs_as_example_have_a_dynamic_length(tmp_path: Path) -> None:
    model = bert()
    folder = export(model, tmp_path / "student", format="onnx", example={"input_ids": IDS, "attention_mask": MASK})
    found = onnx_outputs(folder, input_ids=IDS[:1, :3], attention_mask=MASK[:1, :3])[0]
    with torch.no_grad():
        torch.testing.assert_close(found, model(IDS[:1, :3], MASK[:1, :3]).logits, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_is_exported_as_onnx_by_its_recipe(tmp_path: Path) -> None:
    state = {f"student.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    recipe = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    options: dict[str, Any] = {"format": "onnx", "example": (torch.rand(2, 3),)}
    folder = export(tmp_path / "last.ckpt", tmp_path / "student", recipe=recipe, **options)
    found = onnx_outputs(folder, input=torch.eye(3))[0]
    torch.testing.assert_close(found, state["student.weight"].T + state["student.bias"])
    with pytest.raises(ConfigError, match="has the student's weights but not its class: give the recipe"):
        export(tmp_path / "last.ckpt", tmp_path / "student", **options)


class Rows(nn.Module):
    """A loop over rows, which no graph has."""

    def forward(self, values: Tensor) -> Tensor:
        return values * 2 if values.sum().item() > 0 else values


def test_what_onnx_does_not_support_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not Linear: give example=\{'name': tensor\}"):
        export(nn.Linear(2, 2), tmp_path / "student", format="onnx")
    with pytest.raises(ConfigError, match="but 'input' is not one"):
        export(nn.Linear(2, 2), tmp_path / "student", format="onnx", example=(torch.tensor(2.0),))
    with pytest.raises(ConfigError, match="A Rows cannot be exported to ONNX: Could not guard") as caught:
        export(Rows(), tmp_path / "student", format="onnx", example=(torch.ones(2, 2),))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_disagrees_with_its_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd_lightning.models import onnx as onnx_graph

    def wrong_graph(module: nn.Module, args: Any, path: Path, **_: Any) -> None:
        import onnx
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "l"]) for name in module.inputs]
        nodes = [
            helper.make_node("Cast", [module.inputs[0]], ["x"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["x"], ["logits"], keepdims=1),
        ]
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "wrong", inputs, [out])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10), path)

    monkeypatch.setattr(onnx_graph.torch.onnx, "export", wrong_graph)
    with pytest.raises(ConfigError, match="ONNX graph's 'logits' differs from the model's by"):
        export(bert(), tmp_path / "student", format="onnx")
    assert not list(tmp_path.iterdir())


def test_missing_onnx_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else find(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install kd-lightning\[onnx\]"):
        export(bert(), tmp_path / "student", format="onnx")


def test_models_with_other_inputs_are_refused_as_onnx(tmp_path: Path) -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ConfigError, match="not T5ForConditionalGeneration"):
        export(model, tmp_path / "student", format="onnx")


# -- the folder ----------------------------------------------------------------------------------------------------


def test_an_earlier_export_is_replaced_completely(tmp_path: Path) -> None:
    folder = export(bert(), tmp_path / "student", tokenizer=tokenizer())
    again = export(nn.Linear(2, 2), str(folder), format="state_dict")
    assert again == folder
    assert sorted(file.name for file in folder.iterdir()) == ["checksums.json", "model.safetensors"]
    assert [file.name for file in tmp_path.iterdir()] == ["student"]


class BrokenTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        raise OSError("no space left on device")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_failed_export_leaves_what_was_there(tmp_path: Path, earlier: bool) -> None:
    if earlier:
        export(nn.Linear(2, 2), tmp_path / "student", format="state_dict")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(OSError, match="no space"):
        export(bert(), tmp_path / "student", tokenizer=BrokenTokenizer())
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == (["student"] if earlier else [])


def test_a_folder_with_anything_else_is_never_replaced(tmp_path: Path) -> None:
    export(bert(), tmp_path / "student")
    (tmp_path / "student" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds 'thesis\.tex', no part"):
        export(bert(), tmp_path / "student")
    (tmp_path / "folders" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds 'model\.safetensors'"):
        export(bert(), tmp_path / "folders")
    (tmp_path / "notes").write_text("x")
    with pytest.raises(ConfigError, match="it is a file"):
        export(bert(), tmp_path / "notes")
    assert (tmp_path / "student" / "thesis.tex").read_text() == "years of work"


def test_the_folder_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").mkdir()
    folder = export(nn.Linear(2, 2), tmp_path / "deep" / "student", format="state_dict")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


# -- what cannot be exported ---------------------------------------------------------------------------------------


class Foreign(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.model(batch).sum()


def test_wrong_arguments_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown export format 'onyx'\. Closest: onnx"):
        export(bert(), tmp_path / "student", format="onyx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="There is no checkpoint file at 'nowhere"):
        export("nowhere.ckpt", tmp_path / "student")
    with pytest.raises(ConfigError, match="Foreign has no `student`"):
        export(Foreign(), tmp_path / "student")
    with pytest.raises(ConfigError, match="needs a Transformers model"):
        export(nn.Linear(2, 2), tmp_path / "student", format="huggingface")
    with pytest.raises(ConfigError, match="two names of one argument"):
        export(bert(), tmp_path / "student", processor=tokenizer(), tokenizer=tokenizer())
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    model = bert()
    model.bert.encoder.layer[0].attention.self.query.adapter = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"do not fit a plain BertForSequenceClassification: .*adapter"):
        export(model, tmp_path / "student")


def test_weights_sharded_over_processes_are_refused(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Linear(2, 2)
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), init_device_mesh("cpu", (1,))))
        with pytest.raises(ConfigError, match="'weight' is sharded over processes"):
            export(model, tmp_path / "student", format="state_dict")
    finally:
        dist.destroy_process_group()
