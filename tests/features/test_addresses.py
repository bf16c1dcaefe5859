"""What an address may be, and the error for one that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from kd_lightning.core.errors import AddressError
from kd_lightning.features import FeatureTap, model_info
from kd_lightning.models import cifar_resnet


def take(model: nn.Module, address: str, batch: Any) -> torch.Tensor:
    with torch.no_grad(), FeatureTap(model, [address]) as tap:
        model(**batch)
        return tap.take()[address]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hiden.1", "hidden.1"),
        ("hidden.4", "from 0 to 3"),
        ("attention.0", "from 1 to 3"),
        ("hidden.-1", "hidden.1"),
        ("encoder.hidden.x", "hidden"),
        ("bert.encodr.layer.0", "bert.encoder.layer.0"),
        ("logit", "logits"),
        ("start_logits", "logits"),
        ("hidden_states", "hidden"),
        ("", "Choices"),
    ],
)
def test_a_wrong_address_names_the_closest_ones(bert: nn.Module, address: str, message: str) -> None:
    with pytest.raises(AddressError, match=message) as raised:
        FeatureTap(bert, ["hidden.1", address])
    assert f"'{address}'" in str(raised.value)
    with pytest.raises(AddressError, match=message):
        model_info(bert).check([address])


def test_a_bare_name_is_refused_where_there_are_several_stacks(families: dict[str, Any]) -> None:
    with pytest.raises(AddressError, match=r"encoder\.hidden\.1 or decoder\.hidden\.1"):
        FeatureTap(families["t5"].build(), ["hidden.1"])
    with pytest.raises(AddressError, match=r"text_model\.hidden\.1 or vision_model\.hidden\.1"):
        model_info(families["clip"].build()).layers()


def test_a_prefix_may_be_the_whole_path_or_its_end(families: dict[str, Any]) -> None:
    bart, batch = families["bart"].build(), families["bart"].batch()
    short, long = take(bart, "decoder.hidden.2", batch), take(bart, "model.decoder.hidden.2", batch)
    assert torch.equal(short, long)
    with pytest.raises(AddressError, match=r"encoder\.hidden"):
        FeatureTap(bart, ["encodr.hidden.1"])


def test_cross_attention_is_not_taken_for_self_attention(families: dict[str, Any]) -> None:
    for name in ("t5", "bart"):
        attention = take(families[name].build(), "decoder.attention.2", families[name].batch())
        assert attention.shape[-2:] == (5, 5)  # the words it writes; over those it reads it would be (5, 7)


@pytest.mark.parametrize("address", ["hidden.1", "hidden.0", "attention.1", "query.1"])
def test_models_without_the_batch_first_are_refused_at_setup(address: str) -> None:
    xlnet = tf.XLNetModel(tf.XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=24))
    with pytest.raises(AddressError, match=r"the last; use a module path, such as 'layer\.0'"):
        FeatureTap(xlnet, [address])
    assert FeatureTap(xlnet, ["layer.0", "layer.1.rel_attn:in"]).addresses == ("layer.0", "layer.1.rel_attn:in")


def test_models_whose_layers_are_spread_over_lists_are_refused() -> None:
    xlm = tf.XLMModel(tf.XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(AddressError, match="spread over several lists"):
        FeatureTap(xlm, ["hidden.1"])


def test_models_that_number_their_hidden_states_otherwise_are_refused() -> None:
    sizes = {"hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "depths": [1] * 4}
    with pytest.raises(AddressError, match=r"do not start with the embeddings.*'stages\.0'"):
        FeatureTap(tf.SegformerModel(tf.SegformerConfig(**sizes)), ["hidden.1"])


def test_two_models_in_one_are_two_stacks() -> None:
    config = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = tf.BertModel(tf.BertConfig(**config))
    decoder = tf.BertLMHeadModel(tf.BertConfig(**config, is_decoder=True, add_cross_attention=True))
    model = tf.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    with pytest.raises(AddressError, match=r"encoder\.hidden\.1 or decoder\.hidden\.1"):
        FeatureTap(model, ["hidden.1"])
    words = torch.arange(5, 12)[None]
    batch = {"input_ids": words, "decoder_input_ids": words[:, :3]}
    assert take(model, "encoder.attention.2", batch).shape == (1, 2, 7, 7)
    assert take(model, "decoder.attention.2", batch).shape == (1, 2, 3, 3)


def test_kernel_inputs_that_cannot_be_recorded_are_refused(families: dict[str, Any]) -> None:
    for address in ("query.1", "scores.1"):
        with pytest.raises(AddressError, match=r"attention\.self.*or 'attention\.1'"):
            FeatureTap(families["deberta"].build(), [address])


def test_attention_that_depends_on_its_kernels_name_is_refused(families: dict[str, Any]) -> None:
    # GPT-2 can upcast under 'eager' only, which it would not do under a tap.
    with pytest.raises(AddressError, match="another attn_implementation"):
        FeatureTap(families["gpt2"].build("eager"), ["attention.1"])
    options = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for kernel in ("sdpa", "eager"):
        config = tf.FalconConfig(**options)
        config._attn_implementation = kernel
        falcon = tf.FalconModel(config).eval()
        if kernel == "sdpa":  # its attention takes another way when the map is requested, with a mask that does not fit
            with pytest.raises(AddressError, match="'sdpa' kernel"):
                FeatureTap(falcon, ["attention.1"])
        else:
            assert take(falcon, "attention.1", {"input_ids": torch.ones(1, 3).long()}).shape == (1, 2, 3, 3)
    assert take(families["bert"].build("eager"), "attention.1", families["bert"].batch()).shape == (2, 2, 7, 7)


def test_a_map_that_is_not_words_by_words_is_refused() -> None:
    options = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = tf.LongformerModel(tf.LongformerConfig(**options, intermediate_size=24, attention_window=4)).eval()
    with pytest.raises(AddressError, match=r"'attention\.1' cannot be read from this model"):
        take(model, "attention.1", {"input_ids": torch.arange(5, 13)[None]})


def test_module_paths_give_outputs_and_inputs(bert: nn.Module, words: Any) -> None:
    output = take(bert, "bert.encoder.layer.1.output", words)
    assert torch.equal(output, take(bert, "hidden.2", words))
    assert torch.equal(take(bert, "bert.encoder.layer.2:in", words), output)
    dense = bert.bert.encoder.layer[1].intermediate.dense
    torch.testing.assert_close(
        dense(take(bert, "bert.encoder.layer.1.intermediate.dense:in", words)),
        take(bert, "bert.encoder.layer.1.intermediate.dense", words),
    )


def test_wrappers_are_seen_through(bert: nn.Module, words: Any) -> None:
    wrapped = nn.Sequential(torch.compile(bert, backend="eager"))[0]
    expected = take(bert, "attention.2", words)
    assert model_info(nn.DataParallel(wrapped)).layers() == 3
    for address in ("attention.2", "bert.attention.2", "_orig_mod.bert.attention.2"):
        assert torch.equal(take(bert, "attention.2", words), expected)
        assert FeatureTap(wrapped, [address]).addresses == (address,)
    for path in ("bert.pooler", "_orig_mod.bert.pooler", "module.bert.pooler", "module._orig_mod.bert.pooler"):
        assert model_info(nn.DataParallel(wrapped)).width(path) == 16


def test_a_model_in_ddp_is_tapped_by_the_same_names(bert: nn.Module, words: Any, tmp_path: Path) -> None:
    expected = take(bert, "attention.2", words)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(bert)
        for address in ("attention.2", "bert.attention.2", "module.bert.attention.2"):
            assert torch.equal(take(wrapped, address, words), expected)
        pooled = take(wrapped, "module.bert.pooler", words)
        assert torch.equal(take(wrapped, "bert.pooler", words), pooled)
        with FeatureTap(wrapped, ["hidden.1"]) as tap:
            wrapped(**words)
            tap.take()["hidden.1"].sum().backward()
        del wrapped
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapper_inside_the_model_is_seen_through(families: dict[str, Any]) -> None:
    bert, words = families["bert"].build(), families["bert"].batch()
    expected = take(bert, "attention.2", words), take(bert, "bert.encoder.layer.1.output", words)
    bert.bert.encoder.layer[1] = torch.compile(bert.bert.encoder.layer[1], backend="eager")
    assert model_info(bert).layers() == 3
    torch.testing.assert_close(take(bert, "attention.2", words), expected[0])
    torch.testing.assert_close(take(bert, "bert.encoder.layer.1.output", words), expected[1])


def test_a_transformer_inside_a_plain_module_has_its_layers(families: dict[str, Any]) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = families["distilbert"].build().distilbert
            self.head = nn.Linear(16, 4)

        def forward(self, **batch: Any) -> torch.Tensor:
            return self.head(self.body(**batch).last_hidden_state)

    tagger, batch = Tagger(), families["distilbert"].batch()
    assert torch.equal(take(tagger, "hidden.3", batch), take(tagger, "head:in", batch))
    assert model_info(tagger).width("logits") == 4


def test_a_plain_module_is_tapped_without_importing_transformers() -> None:
    script = (
        "import sys, importlib.util as u\n"
        "import torch\n"
        "sys.modules['kd_lightning'] = k = type(sys)('kd_lightning')\n"
        f"k.__path__ = [{_package()!r}]\n"
        "from kd_lightning.features import FeatureTap\n"
        "model = torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
        "with FeatureTap(model, ['0']) as tap:\n"
        "    model(torch.zeros(1, 2)); tap.take()\n"
        "assert 'transformers' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def _package() -> str:
    import kd_lightning.core as core

    return str(Path(core.__file__).parents[1])


def test_layers_in_which_nothing_attends_say_so() -> None:
    network = cifar_resnet(8, num_labels=3)
    with pytest.raises(AddressError, match=r"'query\.3' cannot be read: no module of that layer of this \w+ attends"):
        FeatureTap(network, ["query.3"])
