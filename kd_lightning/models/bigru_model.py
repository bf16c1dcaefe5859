"""A bidirectional GRU as a Transformers model: saved, loaded and configured like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput

from kd_lightning.models.recurrent import BiGRULayer


class BiGRUConfig(PreTrainedConfig):
    """Sizes of a BiGRU.

    Args:
        vocab_size: pieces of the tokenizer.
        hidden_size: width of the embeddings, of each direction's state and of each layer's output.
        num_hidden_layers: bidirectional layers.
        hidden_dropout_prob: dropout after the embeddings, between the layers and before the classifier.
        initializer_range: standard deviation of embeddings and linear maps.
        pad_token_id: its embedding is zero and stays so.

    """

    model_type = "kd-bigru"

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 1
    hidden_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0


class BiGRUPreTrainedModel(PreTrainedModel):
    """What the BiGRU models have in common: configuration and initialisation."""

    config_class = BiGRUConfig
    base_model_prefix = "bigru"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.GRU):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    init.zeros_(parameter)
                elif "weight_hh" in name:
                    init.orthogonal_(parameter)
                else:
                    init.xavier_uniform_(parameter)


class BiGRUModel(BiGRUPreTrainedModel):
    """Embeddings and bidirectional GRU layers; masked tokens are skipped, wherever they stand.

    Example:
        >>> model = BiGRUModel(BiGRUConfig(vocab_size=20, hidden_size=6))
        >>> model(torch.tensor([[3, 4, 0]]), attention_mask=torch.tensor([[1, 1, 0]])).last_hidden_state.shape
        torch.Size([1, 3, 6])

    """

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(BiGRULayer(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Return last_hidden_state (B, L, D), and hidden_states (embeddings, then each layer) where asked for."""
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = [self.dropout(self.embed_tokens(input_ids))]
        for depth, layer in enumerate(self.layers):
            states.append(layer(self.dropout(states[-1]) if depth else states[-1], keep.bool()))
        return BaseModelOutput(states[-1], hidden_states=tuple(states) if output_hidden_states else None)


class BiGRUForSequenceClassification(BiGRUPreTrainedModel):
    """A BiGRU whose states are max-pooled over the unmasked tokens and classified.

    Max pooling is what Conneau et al. 2017 found best for recurrent sentence encoders.

    Example:
        >>> model = BiGRUForSequenceClassification(BiGRUConfig(vocab_size=20, hidden_size=6, num_labels=3))
        >>> model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([2])).logits.shape
        torch.Size([1, 3])

    """

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or ())
        self.bigru = BiGRUModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """Return logits (B, C), and the loss where labels are given. Segments (`token_type_ids`) are not used."""
        body = self.bigru(input_ids, attention_mask, output_hidden_states)
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.classifier(self.dropout(max_pool(body.last_hidden_state, keep.bool())))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss, logits, hidden_states=body.hidden_states)


class BiGRUForTokenClassification(BiGRUPreTrainedModel):
    """A BiGRU with a classifier on every token.

    Example:
        >>> model = BiGRUForTokenClassification(BiGRUConfig(vocab_size=20, hidden_size=6, num_labels=3))
        >>> model(torch.tensor([[3, 4, 5]])).logits.shape
        torch.Size([1, 3, 3])

    """

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or ())
        self.bigru = BiGRUModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> TokenClassifierOutput:
        """Return logits (B, L, C), and the loss where labels are given. Segments (`token_type_ids`) are not used."""
        body = self.bigru(input_ids, attention_mask, output_hidden_states)
        logits = self.classifier(self.dropout(body.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss, logits, hidden_states=body.hidden_states)


def max_pool(states: Tensor, keep: Tensor) -> Tensor:
    """Return the maximum over the tokens (B, L) that `keep` marks, (B, D); zero for a row without any.

    Example:
        >>> max_pool(torch.tensor([[[1.0], [9.0]], [[1.0], [9.0]]]), torch.tensor([[True, False], [False, False]]))
        tensor([[1.],
                [0.]])

    """
    lowest = torch.finfo(states.dtype).min
    return states.masked_fill(~keep[..., None], lowest).amax(1).masked_fill(~keep.any(1, keepdim=True), 0.0)


def register() -> None:
    """Tell Transformers' Auto classes about the BiGRU; may be called any number of times."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

    heads: dict[Any, Any] = {
        AutoModel: BiGRUModel,
        AutoModelForSequenceClassification: BiGRUForSequenceClassification,
        AutoModelForTokenClassification: BiGRUForTokenClassification,
    }
    AutoConfig.register(BiGRUConfig.model_type, BiGRUConfig, exist_ok=True)
    for auto, model in heads.items():
        auto.register(BiGRUConfig, model, exist_ok=True)
