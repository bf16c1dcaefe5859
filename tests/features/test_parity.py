"""Every layer's feature equals what an eager twin of the model records itself."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_lightning.features import FeatureTap, model_info


def addresses(family: Any, model: nn.Module) -> dict[str, tuple[str, int]]:
    """Return address → (output field, position in it), for hidden states and attention maps."""
    info, found = model_info(model), {}
    for stack, (hidden, attention) in family.stacks.items():
        prefix = f"{stack}." if stack else ""
        for k in range(info.layers(stack) + 1):
            found[f"{prefix}hidden.{k}"] = (hidden, k)
            if k:
                found[f"{prefix}attention.{k}"] = (attention, k - 1)
    return found


def rows(tensor: Tensor, batch: dict[str, Tensor], address: str) -> list[Tensor]:
    """Return each row without its padding, where the feature is over padded words."""
    mask = batch.get("attention_mask")
    if mask is None or address.startswith(("vision_model", "decoder")):
        return list(tensor)
    lengths = mask.sum(1).tolist()
    if "hidden" in address:
        return [row[:length] for row, length in zip(tensor, lengths, strict=True)]
    return [row[:, :length] for row, length in zip(tensor, lengths, strict=True)]


def assert_same(feature: Tensor, expected: Tensor, batch: dict[str, Tensor], address: str) -> None:
    assert feature.shape == expected.shape, address
    for one, other in zip(rows(feature, batch, address), rows(expected, batch, address), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=lambda text: f"{address}: {text}")


def run(model: nn.Module, batch: dict[str, Tensor], wanted: list[str]) -> tuple[Any, dict[str, Tensor]]:
    with torch.no_grad(), FeatureTap(model, wanted) as tap:
        return model(**batch), tap.take()


def test_every_layer_equals_the_eager_twin(family: Any) -> None:
    model, batch = family.build(), family.batch()
    wanted = addresses(family, model)
    _, features = run(model, batch, list(wanted))
    with torch.no_grad():
        expected = family.build("eager")(**batch, output_hidden_states=True, output_attentions=True)
    for stack, (hidden, attention) in family.stacks.items():
        layers = model_info(model).layers(stack)
        assert len(attrgetter(hidden)(expected)) == layers + 1
        assert len(attrgetter(attention)(expected)) == layers
    for address, (field, position) in wanted.items():
        assert_same(features[address], attrgetter(field)(expected)[position], batch, address)


def test_a_tapped_model_gives_the_same_bits(family: Any) -> None:
    model, batch = family.build(), family.batch()
    with torch.no_grad():
        before = model(**batch)
    tapped, _ = run(model, batch, list(addresses(family, model)))
    with torch.no_grad():
        after = model(**batch)
    assert torch.equal(before[0], tapped[0])
    assert torch.equal(before[0], after[0])


def test_masked_softmax_of_the_scores_is_the_attention(family: Any) -> None:
    if family.name in ("deberta", "mpnet"):
        pytest.skip("shows no scores")
    model, batch = family.build(), family.batch()
    prefixes = [f"{stack}." if stack else "" for stack in family.stacks]
    _, features = run(model, batch, [f"{p}{kind}.2" for p in prefixes for kind in ("scores", "attention")])
    for prefix in prefixes:
        scores, attention = features[f"{prefix}scores.2"], features[f"{prefix}attention.2"]
        # Where the map is zero the mask was; everywhere else the two must agree.
        expected = scores.masked_fill(attention == 0, float("-inf")).softmax(-1)
        for one, other in zip(rows(attention, batch, prefix), rows(expected, batch, prefix), strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        if prefix in ("", "text_model.") and "attention_mask" in batch:
            words = batch["attention_mask"][1].bool()
            assert (attention[1][:, words][..., ~words] == 0).all()


def test_causal_models_do_not_look_ahead_without_a_mask(families: dict[str, Any]) -> None:
    for name in ("gpt2", "llama", "gemma2"):
        model, batch = families[name].build(), families[name].batch()
        _, features = run(model, {"input_ids": batch["input_ids"]}, ["attention.1", "attention.2"])
        for attention in features.values():
            assert (attention.triu(1) == 0).all()
            torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))


def test_only_the_addressed_layer_computes_a_map(bert: nn.Module, words: Any, monkeypatch: Any) -> None:
    from transformers.models.bert import modeling_bert

    seen = []
    eager = modeling_bert.eager_attention_forward

    def spy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return eager(module, *args, **kwargs)

    monkeypatch.setattr(modeling_bert, "eager_attention_forward", spy)
    run(bert, words, ["attention.2", "hidden.3"])
    assert seen == [bert.bert.encoder.layer[1].attention.self]


def test_query_key_and_value_are_what_the_kernel_receives(families: dict[str, Any], monkeypatch: Any) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in ("bert", "llama", "gpt2", "t5", "vit"):
        model, batch, seen = families[name].build(), families[name].batch(), []
        kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]

        def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append((query, key, value))  # noqa: B023
            return kernel(module, query, key, value, *args, **kwargs)  # noqa: B023

        with monkeypatch.context() as patch, torch.no_grad():
            patch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", spy)
            model(**batch)
        prefix = "encoder." if name == "t5" else ""
        kinds = ("query", "key", "value")
        _, features = run(model, batch, [f"{prefix}{kind}.2" for kind in kinds])
        for kind, expected in zip(kinds, seen[1], strict=True):
            assert torch.equal(features[f"{prefix}{kind}.2"], expected), (name, kind)


def test_query_and_value_of_bert_are_the_projections(bert: nn.Module, words: Any) -> None:
    layer = bert.bert.encoder.layer[2]
    _, features = run(bert, words, ["hidden.2", "query.3", "value.3"])
    for kind in ("query", "value"):
        projected = getattr(layer.attention.self, kind)(features["hidden.2"])
        expected = projected.view(2, 7, 2, 8).transpose(1, 2)
        torch.testing.assert_close(features[f"{kind}.3"], expected)


def test_keys_of_a_rotary_model_are_rotated_and_grouped(families: dict[str, Any]) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model, batch = families["llama"].build(), families["llama"].batch()
    _, features = run(model, batch, ["key.2", "query.2", "model.layers.1.input_layernorm"])
    attention, normed = model.model.layers[1].self_attn, features["model.layers.1.input_layernorm"]
    query = attention.q_proj(normed).view(2, 7, 4, 4).transpose(1, 2)
    key = attention.k_proj(normed).view(2, 7, 2, 4).transpose(1, 2)
    cos, sin = model.model.rotary_emb(normed, torch.arange(7)[None])
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    torch.testing.assert_close(features["query.2"], query)
    torch.testing.assert_close(features["key.2"], key)


def test_the_map_is_before_dropout_in_training(families: dict[str, Any]) -> None:
    for name in ("bert", "deberta", "mpnet"):
        model, batch = families[name].build().train(), families[name].batch()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        with FeatureTap(model, ["attention.1"]) as tap:
            model(**batch)
            attention = tap.take()["attention.1"][0]
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))
        assert attention.requires_grad, name


def test_a_tap_draws_no_random_numbers(bert: nn.Module, words: Any) -> None:
    bert.train()
    torch.manual_seed(3)
    plain = bert(**words).logits
    torch.manual_seed(3)
    with FeatureTap(bert, ["attention.1", "scores.2", "hidden.3"]) as tap:
        tapped = bert(**words).logits
        tap.take()
    assert torch.equal(plain, tapped)
