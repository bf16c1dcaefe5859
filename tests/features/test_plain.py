"""Plain PyTorch models: module paths, lists of layers, `nn.MultiheadAttention`, and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, model_info

PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def encoder(**options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, **({"batch_first": True} | options))
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=options.get("batch_first", True)).eval()


class Student(nn.Module):
    """Layers in a list of its own, and a step between them that is no module of the list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 16)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words)
        for layer in self.layers:
            x = 2 * layer(x)
        return self.head(x.mean(1))


def take(model: nn.Module, addresses: list[str], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    with FeatureTap(model, addresses) as tap:
        model(*args, **kwargs)
        return tap.take()


def test_module_paths_and_their_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))
    x = torch.randn(5, 4)
    features = take(model, ["0", "1.1:in", "1.1", "logits"], x)
    first = model[0](x)
    assert torch.equal(features["0"], first)
    assert torch.equal(features["1.1:in"], first.relu())
    assert torch.equal(features["1.1"], model(x))
    assert torch.equal(features["logits"], model(x))


def test_a_list_of_layers_is_a_stack() -> None:
    model, words = Student().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    features = take(model, ["hidden.0", "hidden.1", "hidden.2", "hidden.3"], words)
    x = model.table(words)
    assert torch.equal(features["hidden.0"], x)
    for k, layer in enumerate(model.layers, start=1):
        x = layer(x)
        scaled = 2 * x if k < 3 else x  # between layers it is what the next layer is given
        torch.testing.assert_close(features[f"hidden.{k}"], scaled)
        x = scaled
    assert model_info(model).layers() == 3


def test_features_of_a_multihead_attention_equal_its_own_weights() -> None:
    model, x = encoder(), torch.randn(2, 5, 16)
    kinds = ("attention", "scores", "query", "key", "value")
    features = take(model, ["hidden.1", *(f"{kind}.2" for kind in kinds)], x, src_key_padding_mask=PADDING)
    attention = model.layers[1].self_attn
    context, weights = attention(
        *[features["hidden.1"]] * 3, key_padding_mask=PADDING, average_attn_weights=False, need_weights=True
    )
    torch.testing.assert_close(features["attention.2"], weights)
    masked = features["scores.2"].masked_fill(PADDING[:, None, None], float("-inf"))
    torch.testing.assert_close(masked.softmax(-1), weights)
    own = attention.out_proj((weights @ features["value.2"]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(own, context)
    assert features["query.2"].shape == features["key.2"].shape == (2, 2, 5, 8)


def test_masks_of_a_multihead_attention_are_kept() -> None:
    model, x = encoder(), torch.randn(2, 5, 16)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    attention = take(model, ["attention.1"], x, mask=causal, is_causal=True)["attention.1"]
    assert (attention.triu(1) == 0).all()
    per_head = causal.isinf().expand(4, 5, 5)
    torch.testing.assert_close(take(model, ["attention.1"], x, mask=per_head)["attention.1"], attention)


@pytest.mark.parametrize("grad", [True, False])
def test_padding_in_eval_mode_takes_no_path_that_skips_hooks(grad: bool) -> None:
    model, x = encoder(), torch.randn(2, 5, 16)
    with torch.set_grad_enabled(grad):
        expected = model(x, src_key_padding_mask=PADDING)
        with FeatureTap(model, ["hidden.2", "attention.3"]) as one:
            with FeatureTap(model, ["hidden.2"]):
                model(x, src_key_padding_mask=PADDING)
            output = model(x, src_key_padding_mask=PADDING)
            features = one.take()
    torch.testing.assert_close(output[~PADDING], expected[~PADDING], atol=1e-5, rtol=1e-4)
    assert features["hidden.2"].shape == (2, 5, 16)
    assert (features["attention.3"][1, :, :, 3:] == 0).all()
    assert model.use_nested_tensor


def test_layers_without_the_batch_first_are_refused() -> None:
    with pytest.raises(AddressError, match=r"'layers\.0'"):
        FeatureTap(encoder(batch_first=False), ["hidden.1"])


def test_an_encoder_and_a_decoder_are_two_stacks() -> None:
    model = nn.Transformer(16, 2, 2, 3, 24, batch_first=True)
    assert (model_info(model).layers("encoder"), model_info(model).layers("decoder")) == (2, 3)
    features = take(model, ["encoder.hidden.2", "decoder.attention.3"], torch.randn(2, 5, 16), torch.randn(2, 4, 16))
    assert features["decoder.attention.3"].shape == (2, 2, 4, 4)


def test_one_module_used_as_several_layers_is_counted() -> None:
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
            self.blocks = nn.ModuleList([block] * 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    model, x = Looped(), torch.randn(2, 4)
    features = take(model, [f"hidden.{k}" for k in range(4)], x)
    for k in range(4):
        assert torch.equal(features[f"hidden.{k}"], x)
        x = model.blocks[0](x)


def test_a_model_without_a_list_of_layers_has_no_layer_addresses() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 3))
    with pytest.raises(AddressError, match=r"no list of equal layers.*Choices: 0, 1"):
        FeatureTap(model, ["hidden.1"])


def test_a_layer_address_that_is_a_path_is_one_where_there_are_no_layers() -> None:
    model = nn.ModuleDict({"hidden": nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])})
    assert model_info(model).width("hidden.0") == 2


def test_a_packed_sequence_is_refused() -> None:
    gru = nn.Sequential(nn.GRU(4, 3, batch_first=True))
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 5, 4), torch.tensor([5, 3]), batch_first=True)
    for address in ("0", "0:in"):
        with pytest.raises(AddressError, match="packed sequence"):
            take(gru, [address], packed)


class Pair(NamedTuple):
    logits: Tensor
    state: Tensor


@dataclass
class Result:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    ("output", "address"),
    [
        (torch.ones(2, 3), "logits"),
        ({"logits": torch.ones(2, 3)}, "logits"),
        ({"logits": torch.zeros(2, 3), "loss": torch.ones(2, 3)}, "loss"),
        ((torch.ones(2, 3), torch.zeros(1)), "logits"),
        ((torch.tensor(0.5), torch.ones(2, 3)), "logits"),
        (Pair(torch.ones(2, 3), torch.zeros(1)), "logits"),
        (Result(torch.ones(2, 3)), "logits"),
    ],
)
def test_output_fields_by_name(output: Any, address: str) -> None:
    class Gives(nn.Module):
        def forward(self) -> Any:
            return output

    assert torch.equal(take(Gives(), [address])[address], torch.ones(2, 3))


def test_a_function_may_name_the_output_fields() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with FeatureTap(model, ["boxes", "0"], outputs=lambda output: {"boxes": output + 1}) as tap:
        output = model(torch.zeros(1, 2))
        features = tap.take()
    assert torch.equal(features["boxes"], output + 1)
    with pytest.raises(AddressError, match="'boxes'"):
        FeatureTap(model, ["boxes"])
    model_info(model, has_outputs=True).check(["boxes"])


def test_a_field_that_is_missing_this_time_is_an_error(bert: nn.Module, words: Any) -> None:
    with pytest.raises(AddressError, match=r"no 'loss' this time.*logits"):
        take(bert, ["loss"], **words)
    assert take(bert, ["loss"], **words, labels=torch.tensor([0, 1]))["loss"].dim() == 0


def test_a_feature_that_is_no_tensor_is_an_error() -> None:
    model = nn.Identity()
    with FeatureTap(model, ["parts"], outputs=lambda output: {"parts": [output]}) as tap:
        model(torch.zeros(1))
        with pytest.raises(AddressError, match="'parts' is a list"):
            tap.take()


def test_a_model_that_returns_nothing_has_features_all_the_same() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> None:
            self.layer(x)

    assert take(Silent(), ["layer"], torch.zeros(1, 2))["layer"].shape == (1, 2)


def test_a_single_string_is_no_list_of_addresses() -> None:
    with pytest.raises(AddressError, match=r"\['logits'\]"):
        FeatureTap(nn.Identity(), "logits")


def test_gradients_reach_the_model_through_every_kind() -> None:
    model, x = encoder().train(), torch.randn(2, 5, 16)
    for address in ("hidden.1", "attention.1", "scores.1", "query.1", "layers.0.linear1", "layers.1:in"):
        model.zero_grad()
        take(model, [address], x)[address].pow(2).sum().backward()
        assert model.layers[0].self_attn.in_proj_weight.grad.abs().sum() > 0, address
