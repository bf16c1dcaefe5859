from __future__ import annotations

import pytest
import torch
from textbrewer.utils import display_parameters
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from kd_lightning.models.inspection.tree import parameter_tree

from ..toys import bert


def test_parts_add_up_to_the_models_own_count():
    model = bert(2)
    tree = parameter_tree(model)
    buffers = sum(b.numel() for name, b in model.named_buffers() if name in model.state_dict())
    assert tree.parameters == model.num_parameters() + buffers
    assert tree.find("bert.encoder.layer.1").parameters == sum(
        p.numel() for p in model.bert.encoder.layer[1].parameters()
    )
    assert tree.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_tied_embeddings_count_once_and_name_the_first():
    model = BertForMaskedLM(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    tree = parameter_tree(model)
    assert tree.trainable == model.num_parameters()
    decoder = tree.find("cls.predictions.decoder.weight")
    assert (decoder.parameters, decoder.shared_with) == (0, "bert.embeddings.word_embeddings.weight")


def test_the_whole_agrees_with_textbrewers_tree():
    model = bert(2).half()
    _, theirs = display_parameters(model)
    tree = parameter_tree(model)
    assert tree.parameters == theirs.value[0]
    assert tree.bytes / 2**20 == pytest.approx(theirs.value[1])


def test_a_table_stops_at_a_depth():
    lines = parameter_tree(bert(2)).table(depth=1).splitlines()
    assert [line.split()[0] for line in lines] == ["part", "BertForSequenceClassification", "bert", "classifier"]
    assert len({line.index(line.split()[-1]) + len(line.split()[-1]) for line in lines}) == 1  # flush right


def test_precision_counts_in_bytes_and_buffers_are_not_trainable():
    tree = parameter_tree(nn.BatchNorm1d(4).to(torch.float64))
    assert tree.trainable == 8
    assert tree.parameters == 8 + 8 + 1
    assert tree.bytes == 8 * 17


def test_what_is_not_there_is_a_key_error():
    with pytest.raises(KeyError, match="encoder"):
        parameter_tree(nn.Linear(1, 1)).find("encoder")
