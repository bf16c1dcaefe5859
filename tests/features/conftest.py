"""Tiny random models of many families, and batches with padding for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

WORDS = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
PATCHES = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


@dataclass
class Family:
    """One model family: how to build it, what its inputs are, and where its own recordings are.

    `stacks` maps the prefix of an address to the output fields with the hidden states and the attentions.
    """

    name: str
    model: str
    config: str
    options: dict[str, Any]
    inputs: str = "words"
    stacks: dict[str, tuple[str, str]] = field(default_factory=lambda: {"": ("hidden_states", "attentions")})
    has_interface: bool = True

    def build(self, implementation: str = "sdpa") -> nn.Module:
        """Build the model; the same weights for every implementation."""
        torch.manual_seed(0)
        config = getattr(tf, self.config)(**self.options)
        kernel = implementation if self.has_interface else "eager"
        config._attn_implementation = kernel
        model = getattr(tf, self.model)(config)
        with torch.no_grad():  # the usual start is so close to zero that layers hardly differ
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model.eval()

    def batch(self) -> dict[str, torch.Tensor]:
        """Return two rows, the second one padded."""
        generator = torch.Generator().manual_seed(1)
        words = torch.randint(5, 50, (2, 7), generator=generator)
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        pixels = torch.randn(2, 3, 8, 8, generator=generator)
        if self.inputs == "pixels":
            return {"pixel_values": pixels}
        if self.inputs == "both":
            return {"input_ids": words, "attention_mask": mask, "pixel_values": pixels}
        batch = {"input_ids": words, "attention_mask": mask}
        return batch | {"decoder_input_ids": words[:, :5]} if self.inputs == "pairs" else batch


ENCODER_DECODER = {
    "encoder": ("encoder_hidden_states", "encoder_attentions"),
    "decoder": ("decoder_hidden_states", "decoder_attentions"),
}
GROUPED = WORDS | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
BART = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
DEBERTA = WORDS | {
    "relative_attention": True,
    "position_buckets": 4,
    "pos_att_type": ["p2c", "c2p"],
    "max_position_embeddings": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "conv_kernel_size": 3,
    "type_vocab_size": 0,
    "position_biased_input": False,
}
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}
MODERN = WORDS | {
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 32,
}
CLIP = {
    "text_config": WORDS | {"max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
    "vision_config": PATCHES,
    "projection_dim": 8,
}
CLIP_STACKS = {
    "text_model": ("text_model_output.hidden_states", "text_model_output.attentions"),
    "vision_model": ("vision_model_output.hidden_states", "vision_model_output.attentions"),
}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}

FAMILIES = [
    Family("bert", "BertForSequenceClassification", "BertConfig", WORDS | {"num_labels": 3}),
    Family("bert_qa", "BertForQuestionAnswering", "BertConfig", WORDS),
    Family("roberta", "RobertaForTokenClassification", "RobertaConfig", WORDS | {"pad_token_id": 1}),
    Family("electra", "ElectraForSequenceClassification", "ElectraConfig", WORDS | {"embedding_size": 8}),
    Family("distilbert", "DistilBertForMaskedLM", "DistilBertConfig", DISTIL),
    Family("albert", "AlbertForMaskedLM", "AlbertConfig", WORDS | {"embedding_size": 8}),
    Family(
        "albert_groups",
        "AlbertModel",
        "AlbertConfig",
        WORDS | {"embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    Family("modernbert", "ModernBertForSequenceClassification", "ModernBertConfig", MODERN),
    Family("deberta", "DebertaV2ForSequenceClassification", "DebertaV2Config", DEBERTA, has_interface=False),
    Family("mpnet", "MPNetForMaskedLM", "MPNetConfig", WORDS, has_interface=False),
    Family("gpt2", "GPT2LMHeadModel", "GPT2Config", {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2}),
    Family("llama", "LlamaForCausalLM", "LlamaConfig", GROUPED),
    Family("qwen2", "Qwen2Model", "Qwen2Config", GROUPED),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GROUPED | {"head_dim": 8, "sliding_window": 4},
        has_interface=False,
    ),
    Family("vit", "ViTForImageClassification", "ViTConfig", PATCHES, "pixels"),
    Family("dinov2", "Dinov2Model", "Dinov2Config", PATCHES | {"mlp_ratio": 2}, "pixels"),
    Family("clip", "CLIPModel", "CLIPConfig", CLIP, "both", CLIP_STACKS),
    Family("t5", "T5ForConditionalGeneration", "T5Config", T5, "pairs", ENCODER_DECODER),
    Family("bart", "BartForConditionalGeneration", "BartConfig", BART, "pairs", ENCODER_DECODER),
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return {family.name: family for family in FAMILIES}


@pytest.fixture
def bert(families: dict[str, Family]) -> nn.Module:
    return families["bert"].build()


@pytest.fixture
def words(families: dict[str, Family]) -> dict[str, torch.Tensor]:
    return families["bert"].batch()


@pytest.fixture
def hooks_of() -> Callable[[nn.Module], int]:
    """Return a count of all hooks and config views on a model."""

    def count(model: nn.Module) -> int:
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        return hooks + sum("View" in type(getattr(m, "config", None)).__name__ for m in model.modules())

    return count
