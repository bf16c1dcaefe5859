"""Families whose code records hidden states in a way of its own: features equal Transformers' own, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, model_info

WORDS = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}
SEQUENCES = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
MIXER = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
LED = SEQUENCES | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 4}
FOCAL = {k: WINDOWS[k] for k in ("image_size", "patch_size", "embed_dim", "depths")} | {
    "hidden_sizes": [8, 16],
    "focal_levels": [1, 1],
    "focal_windows": [3, 3],
}

EQUAL: dict[str, dict[str, Any]] = {
    "LongT5": T5 | {"local_radius": 3},
    "Swinv2": WINDOWS,
    "FocalNet": FOCAL,
    "Bit": STAGES | {"num_groups": 2},
    "ResNet": STAGES | {"layer_type": "basic"},
    "DonutSwin": WINDOWS,
    "MegatronBert": WORDS,
    "GPTJ": GPT | {"rotary_dim": 4},
    "Mvp": SEQUENCES,
    "DebertaV2": WORDS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["RoFormer", "Deberta", "FNet", "IBert", "Splinter", "Persimmon", "BioGpt"], WORDS),
    **dict.fromkeys(["Camembert", "Phi", "Olmo", "Cohere", "Granite", "Starcoder2", "GPTNeoX", "Falcon"], WORDS),
    **dict.fromkeys(["OpenAIGPT", "GPTBigCode", "GPT2"], GPT),
    **dict.fromkeys(["Pegasus", "Marian", "Blenderbot", "M2M100", "Bart"], SEQUENCES | {"pad_token_id": 0}),
    **dict.fromkeys(["MT5", "UMT5"], T5),
    "Electra": WORDS | {"embedding_size": 12},
    "BigBird": WORDS | {"block_size": 2, "num_random_blocks": 1},
    "ConvBert": WORDS | {"embedding_size": 16},
    "Bloom": {"vocab_size": 50, "hidden_size": 16, "n_layer": 3, "n_head": 2},
    "Mpt": {"vocab_size": 50, "d_model": 16, "n_layers": 3, "n_heads": 2, "max_seq_len": 64},
    "RegNet": STAGES | {"groups_width": 4},
    "Swin": WINDOWS,
    "ConvNextV2": {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "Longformer": (WORDS | {"attention_window": 4}, "hidden.1", "parts of what its layers compute"),
    "LED": (LED, "encoder.hidden.1", "parts of what its layers compute"),
    "Mamba": (MIXER, "hidden.1", "do not start with the embeddings"),
    "Mamba2": (MIXER | {"num_heads": 4, "head_dim": 8, "n_groups": 1}, "hidden.1", "do not start with the embeddings"),
    "Rwkv": (MIXER | {"attention_hidden_size": 16}, "hidden.1", "do not start with the embeddings"),
    "ProphetNet": (
        {"vocab_size": 50, "hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1},
        "decoder.hidden.1",
        "parts of what its layers compute",
    ),
}


def build(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(tf, f"{name}Config")(**options)
    model = getattr(tf, f"{name}Model")(config).eval()
    with torch.no_grad():  # norms that scale by 1 and add 0 would hide themselves
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def batch_for(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    words = torch.randint(3, 50, (2, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [6]])).long()
    decoder = {"decoder_input_ids": words[:, :7]} if model.config.is_encoder_decoder else {}
    return {"input_ids": words, "attention_mask": mask, **decoder}


def assert_equal_to_their_own(model: nn.Module) -> None:
    info, batch = model_info(model), batch_for(model)
    stacks = ["encoder", "decoder"] if "decoder_input_ids" in batch else [""]
    prefixes = {stack: f"{stack}." if stack else "" for stack in stacks}
    wanted = [f"{p}hidden.{k}" for stack, p in prefixes.items() for k in range(info.layers(stack) + 1)]
    with torch.no_grad(), FeatureTap(model, wanted) as tap:
        model(**batch)
        features = tap.take()
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    own = [x for stack in stacks for x in output[f"{stack}_hidden_states".lstrip("_")]]
    assert len(own) == len(wanted)
    for address, expected in zip(wanted, own, strict=True):
        torch.testing.assert_close(features[address], expected, msg=lambda text: f"{address}: {text}")  # noqa: B023


@pytest.mark.parametrize("name", EQUAL)
def test_hidden_states_equal_transformers_own(name: str) -> None:
    assert_equal_to_their_own(build(name, EQUAL[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_hidden_states_of_more_families_equal_their_own(name: str) -> None:
    assert_equal_to_their_own(build(name, MORE[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_hidden_states_that_are_others_are_refused(name: str) -> None:
    options, address, reason = REFUSED[name]
    with pytest.raises(AddressError, match=rf"'{address}' cannot be read from this model: .*{reason}.*module path"):
        FeatureTap(build(name, options), [address])


def test_blocks_of_images_count_from_one_where_their_own_list_has_no_stem() -> None:
    model = build("MobileNetV2", {"image_size": 32, "depth_multiplier": 0.35})
    batch = batch_for(model)
    with torch.no_grad(), FeatureTap(model, ["hidden.1", "hidden.5"]) as tap:
        own = model(**batch, output_hidden_states=True).hidden_states
        features = tap.take()
    assert torch.equal(features["hidden.1"], own[0])
    assert torch.equal(features["hidden.5"], own[4])


def test_parts_of_a_model_have_lists_of_their_own() -> None:
    small = {"downsampling_rate": 2, "local_transformer_stride": 4, "num_hash_buckets": 64, "num_hash_functions": 2}
    model = build("Canine", WORDS | small)
    batch, wanted = batch_for(model), ["initial_char_encoder.hidden.0", "initial_char_encoder.hidden.1"]
    with torch.no_grad(), FeatureTap(model, wanted) as tap:
        expected = model(**batch, output_hidden_states=True).hidden_states[:2]
        features = tap.take()
    for address, own in zip(wanted, expected, strict=True):
        torch.testing.assert_close(features[address], own)
