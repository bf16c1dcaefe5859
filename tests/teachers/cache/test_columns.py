from __future__ import annotations

import json

import pytest
import torch

from kd_lightning.core.errors import CacheError, ConfigError
from kd_lightning.teachers.cache.columns import Codec


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "", torch.bfloat16])
def test_an_unknown_dtype_names_the_known(dtype):
    with pytest.raises(ConfigError, match=r"Unknown dtype .* of a teacher cache\. (Closest|Choices): .*(bf16|fp32)"):
        Codec(dtype)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True])
def test_top_k_is_a_number_from_one(k):
    with pytest.raises(ConfigError, match="Expected argument `top_k` to be a number of logits, from 1"):
        Codec("fp32", k)


@pytest.mark.parametrize(
    ("dtype", "value", "wider"), [("fp16", 1e5, "bf16"), ("fp16", -7e4, "bf16"), ("bf16", 3.4e38, "fp32")]
)
def test_values_beyond_the_dtype_raise_an_error(dtype, value, wider):
    feature = torch.tensor([[1.0, value]])
    with pytest.raises(CacheError, match=rf"'hidden\.1' has values beyond what {dtype} can hold.*dtype='{wider}'"):
        Codec(dtype).pack({"hidden.1": feature}, None, 1)
    Codec("fp32").pack({"hidden.1": feature}, None, 1)


def test_what_was_infinite_stays_infinite():
    feature = torch.tensor([[1.0, float("-inf"), float("nan")]])
    column = Codec("fp16").pack({"logits": feature}, None, 1)["logits"]
    assert column[0, 1] == float("-inf")
    assert column[0, 2].isnan()


@pytest.mark.parametrize("feature", [torch.ones(()), torch.ones(3, 4), torch.ones(8, 4)])
def test_features_that_are_not_of_rows_raise_an_error(feature):
    """Several choices per row, a mean over the batch, or another axis first."""
    with pytest.raises(CacheError, match=r"'net\.out' has the shape \[.*\] for 4 rows"):
        Codec().pack({"net.out": feature}, None, 4)


def test_whole_numbers_are_not_rounded_in_silence():
    with pytest.raises(CacheError, match=r"values of torch\.int64, and a cache keeps floating-point values only"):
        Codec().pack({"embeddings:in": torch.ones(4, 5).long()}, None, 4)


def test_a_codec_is_restored_from_its_metadata():
    codec = Codec("fp16", top_k=2)
    codec.pack({"a/hidden.1": torch.ones(2, 3, 4), "a/logits": torch.rand(2, 9)}, torch.ones(2, 3), 2)
    other = Codec.from_metadata(json.loads(json.dumps(codec.metadata())))
    assert (other.layouts, other.cut, other.dtype) == (codec.layouts, codec.cut, codec.dtype)
    assert other.addresses == ("a/hidden.1", "a/logits")
    assert sorted(name for name in other.layouts if "#" in name) == [
        "a/logits#indices",
        "a/logits#rest",
        "a/logits#values",
    ]
    assert (other.width("a/logits"), other.width("a/hidden.1")) == (9, 4)
