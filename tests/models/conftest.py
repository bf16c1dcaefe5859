from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from transformers import PreTrainedModel

SIZES = {"vocab_size": 40, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 36}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
FAMILIES = {
    "bert": ("Bert", SIZES | {"num_hidden_layers": 12}),
    "roberta": ("Roberta", SIZES | {"num_hidden_layers": 6}),
    "electra": ("Electra", SIZES | {"num_hidden_layers": 6, "embedding_size": 16}),
    "distilbert": ("DistilBert", {"vocab_size": 40, "dim": 24, "n_heads": 4, "hidden_dim": 36, "n_layers": 6}),
    "modernbert": ("ModernBert", SIZES | SPECIAL | {"num_hidden_layers": 6}),
    "deberta": ("DebertaV2", SIZES | {"num_hidden_layers": 6}),
}


@pytest.fixture
def make_teacher() -> Callable[..., PreTrainedModel]:
    """Return a factory of tiny random teachers, by family."""

    def make(family: str = "bert", head: str = "ForSequenceClassification", **fields: object) -> PreTrainedModel:
        name, sizes = FAMILIES[family]
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**(sizes | fields))
        return getattr(transformers, f"{name}{head}")(config).eval()

    return make
