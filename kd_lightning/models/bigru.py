"""A bidirectional GRU as a student: its layer, the Transformers models made of it, and their builder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput

from kd_lightning.core.errors import ConfigError, hint
from kd_lightning.models.heads import build
from kd_lightning.models.shrink import Like, check_padding, config_of, given


class BiGRULayer(nn.Module):
    """Two GRUs, one per direction, and a linear map from both states back to the width; masked tokens are skipped.

    `pack_padded_sequence` needs the lengths on the CPU and right padding, and cannot be compiled or exported to ONNX.
    Here the unmasked tokens are moved to the front in each direction's order, so the masked ones cannot affect them.

    Args:
        width: D, of input, of each direction's state and of the output.

    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rightward = nn.GRU(width, width, batch_first=True)
        self.leftward = nn.GRU(width, width, batch_first=True)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, keep: Tensor) -> Tensor:
        """Return (B, L, D), zero where `keep` (B, L, bool) is false."""
        right, left = reading_orders(keep)
        both = torch.cat([_read(self.rightward, states, right), _read(self.leftward, states, left)], dim=-1)
        return self.merge(both).masked_fill(~keep[..., None], 0.0)


def reading_orders(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step at which each token is read, rightward and leftward, both (B, L); masked tokens come last.

    Example:
        >>> right, left = reading_orders(torch.tensor([[False, True, True, True]]))
        >>> right.tolist(), left.tolist()
        ([[3, 0, 1, 2]], [[3, 2, 1, 0]])

    """
    kept_before, kept = keep.long().cumsum(1) - 1, keep.long().sum(1, keepdim=True)
    dropped = kept + (~keep).long().cumsum(1) - 1
    return torch.where(keep, kept_before, dropped), torch.where(keep, kept - 1 - kept_before, dropped)


def _read(gru: nn.GRU, states: Tensor, order: Tensor) -> Tensor:
    """Run `gru` over the tokens in `order`, and return each output at its token's position."""
    index = order[..., None].expand_as(states)
    ordered = torch.zeros_like(states).scatter(1, index, states)
    return gru(ordered)[0].gather(1, index)


class BiGRUConfig(PreTrainedConfig):
    """Sizes of a BiGRU.

    Args:
        vocab_size: size of the tokenizer's vocabulary.
        hidden_size: width of the embeddings, of each direction's state and of each layer's output.
        num_hidden_layers: bidirectional layers.
        hidden_dropout_prob: dropout after the embeddings, between the layers and before the classifier.
        initializer_range: standard deviation of embeddings and linear maps.
        pad_token_id: its embedding is zero and is not trained.

    """

    model_type = "kd-bigru"

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 1
    hidden_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0


class BiGRUPreTrainedModel(PreTrainedModel):
    """Configuration class and weight initialisation that all BiGRU models share."""

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
    """Embeddings and bidirectional GRU layers; masked tokens are skipped at any position.

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
        """Return last_hidden_state (B, L, D), and hidden_states (embeddings, then each layer) if requested."""
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = [self.dropout(self.embed_tokens(input_ids))]
        for depth, layer in enumerate(self.layers):
            states.append(layer(self.dropout(states[-1]) if depth else states[-1], keep.bool()))
        return BaseModelOutput(states[-1], hidden_states=tuple(states) if output_hidden_states else None)


class BiGRUForSequenceClassification(BiGRUPreTrainedModel):
    """A BiGRU whose states are max-pooled over the unmasked tokens and classified.

    Conneau et al. 2017 found max pooling to be the best for recurrent sentence encoders.

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
        """Return logits (B, C), and the loss if labels are given. Segments (`token_type_ids`) are not used."""
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
        """Return logits (B, L, C), and the loss if labels are given. Segments (`token_type_ids`) are not used."""
        body = self.bigru(input_ids, attention_mask, output_hidden_states)
        logits = self.classifier(self.dropout(body.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss, logits, hidden_states=body.hidden_states)


def max_pool(states: Tensor, keep: Tensor) -> Tensor:
    """Return the maximum over the tokens where `keep` (B, L) is true, (B, D); zero for a row without any.

    Example:
        >>> max_pool(torch.tensor([[[1.0], [9.0]], [[1.0], [9.0]]]), torch.tensor([[True, False], [False, False]]))
        tensor([[1.],
                [0.]])

    """
    lowest = torch.finfo(states.dtype).min
    return states.masked_fill(~keep[..., None], lowest).amax(1).masked_fill(~keep.any(1, keepdim=True), 0.0)


def register() -> None:
    """Register the BiGRU with Transformers' Auto classes; may be called any number of times."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

    heads: dict[Any, Any] = {
        AutoModel: BiGRUModel,
        AutoModelForSequenceClassification: BiGRUForSequenceClassification,
        AutoModelForTokenClassification: BiGRUForTokenClassification,
    }
    AutoConfig.register(BiGRUConfig.model_type, BiGRUConfig, exist_ok=True)
    for auto, model in heads.items():
        auto.register(BiGRUConfig, model, exist_ok=True)


HEADS = ("sequence-classification", "token-classification", "feature-extraction")
"""Tasks a BiGRU can be built for."""


def bigru(
    like: Like,
    *,
    num_labels: int = 2,
    vocab_size: int | None = None,
    task: str = "sequence-classification",
    layers: None = None,
    pad_token_id: int | None = None,
    embeddings: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Build the TextBrewer paper's BiGRU (31 M with BERT-base-cased's vocabulary, head not counted).

    Args:
        like: the teacher, or its configuration; gives the vocabulary and the padding token where they are not given.
        num_labels: classes of the head.
        vocab_size: size of the student's vocabulary.
        task: `sequence-classification`, `token-classification` or `feature-extraction`.
        layers: must stay None: a transformer's layers cannot initialise a GRU.
        pad_token_id: the student tokenizer's padding.
        embeddings: start from a copy of the teacher's word embeddings, which must have the same shape.
        overrides: fields of `BiGRUConfig`.

    Raises:
        ConfigError: for a task it has no head for, layers, an unknown field, or word embeddings of another shape.

    Example:
        >>> from transformers import BertConfig
        >>> bigru(BertConfig(vocab_size=50), hidden_size=8, num_labels=3).config.vocab_size
        50

    """
    if task not in HEADS:
        raise ConfigError(
            f"A BiGRU has no head for {task}, only for {', '.join(HEADS)}. Choose a student of transformer layers: "
            "t6, t3, t3small, t4tiny, t12nano or electra_small."
        )
    if layers is not None:
        raise ConfigError("A BiGRU has no transformer layers to start from its teacher's: leave `layers` out.")
    teacher, known = config_of(like), BiGRUConfig().to_dict()
    shared = {"vocab_size": teacher.vocab_size, "pad_token_id": teacher.pad_token_id}
    fields = shared | given(vocab_size=vocab_size, pad_token_id=pad_token_id) | overrides
    for name in fields:
        if name not in known:
            raise ConfigError(f"A BiGRUConfig has no field '{name}'. {hint(name, known)}")
    check_padding(fields["pad_token_id"], fields["vocab_size"])
    register()
    student = build(task, BiGRUConfig.from_dict(fields | {"num_labels": num_labels}))
    if embeddings:
        _copy_embeddings(like, student)
    return student


def _copy_embeddings(like: Any, student: Any) -> None:
    if not hasattr(like, "get_input_embeddings"):
        raise ConfigError(
            "Starting from a teacher's embeddings needs the teacher itself, but `like` is a configuration."
        )
    source, target = like.get_input_embeddings().weight, student.get_input_embeddings().weight
    if source.shape != target.shape:
        raise ConfigError(
            f"Starting from the teacher's embeddings needs equal shapes, but the student's are {list(target.shape)} "
            f"and the teacher's {list(source.shape)}."
        )
    with torch.no_grad():
        target.copy_(source)
