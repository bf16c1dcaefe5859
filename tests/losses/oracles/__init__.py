"""Slow and obvious: every loss written out in loops over float64 numpy arrays, from the papers' equations.

Each takes (student, teacher, mask) as arrays, or tuples of them, and returns a float; mask is a boolean array, or None
for everything. Those of losses with modules of their own take `state` too: the modules' parameters, as arrays by name.
"""

from __future__ import annotations

from .basics import Array, Oracle, directional_gradient, numeric_gradient, softmax
from .hidden import (
    attention_divergence,
    attention_mse,
    combine_heads,
    cosine_relation,
    cross_relations,
    emd,
    fsp,
    hidden_cosine,
    hidden_mse,
    nst,
    pkd,
    self_relation,
    transport,
)
from .labelled import dkd, hard_label, hard_labels, label_mse, nkd, shifted, wkdl, wsld
from .logits import (
    annealed_logits,
    dist,
    hard_teacher,
    identity,
    logit_mse,
    logit_standardized,
    soft_labels,
    soft_target,
    ttm,
)
from .maps import afd, attention_transfer, channel_wise, masked_generative, nst_mmd, overhaul, vid, vkd, wkdf
from .relations import correlation_congruence, irg, pkt, rkd_angle, rkd_distance, similarity_preserving
from .review import review_kd

__all__ = [
    "Array",
    "Oracle",
    "afd",
    "annealed_logits",
    "attention_divergence",
    "attention_mse",
    "attention_transfer",
    "channel_wise",
    "combine_heads",
    "correlation_congruence",
    "cosine_relation",
    "cross_relations",
    "directional_gradient",
    "dist",
    "dkd",
    "emd",
    "fsp",
    "hard_label",
    "hard_labels",
    "hard_teacher",
    "hidden_cosine",
    "hidden_mse",
    "identity",
    "irg",
    "label_mse",
    "logit_mse",
    "logit_standardized",
    "masked_generative",
    "nkd",
    "nst",
    "nst_mmd",
    "numeric_gradient",
    "overhaul",
    "pkd",
    "pkt",
    "review_kd",
    "rkd_angle",
    "rkd_distance",
    "self_relation",
    "shifted",
    "similarity_preserving",
    "soft_labels",
    "soft_target",
    "softmax",
    "transport",
    "ttm",
    "vid",
    "vkd",
    "wkdf",
    "wkdl",
    "wsld",
]
