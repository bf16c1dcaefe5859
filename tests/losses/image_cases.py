"""Rows of the table of losses: those that came with images, on logits, maps and relations."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from kd_lightning import losses
from kd_lightning.core.types import FeatureInfo

from . import oracles
from .loss_case import Bound, case
from .samples import (
    ROW_LABELS,
    SEED,
    TOKEN_LABELS,
    features,
    hidden,
    logits,
    token_logits,
    two_heads,
    with_ids,
    with_labels,
)

labelled_logits = partial(with_labels, sample=logits, labels=ROW_LABELS)
labelled_token_logits = partial(with_labels, sample=token_logits, labels=TOKEN_LABELS)


def wsld(labels: torch.Tensor, temperature: float, sample: partial) -> oracles.Oracle:
    """Weights are of the student at the sample, wherever the oracle is asked: they have no gradient."""

    def oracle(student: oracles.Array, teacher: oracles.Array, mask: oracles.Array | None) -> float:
        at = min((sample(seed).student[0].double().numpy() for seed in (0, 1)), key=lambda x: abs(x - student).max())
        return oracles.wsld(labels, temperature, at)(student, teacher, mask)

    return oracle


maps = partial(features, student=[(2, 4, 4)], teacher=[(3, 4, 4)])
"""Few channels of many pixels."""

wide_maps = partial(features, student=[(6, 2, 2)], teacher=[(5, 2, 2)])
"""Many channels of few pixels."""

equal_maps = partial(features, student=[(3, 4, 4)], teacher=[(3, 4, 4)])
uneven_maps = partial(features, student=[(2, 5, 4)], teacher=[(3, 5, 4)])
stages = partial(features, student=[(2, 4, 4), (3, 2, 2)], teacher=[(3, 4, 4), (2, 2, 2)])
pyramid = partial(features, student=[(2, 5, 5), (3, 2, 2), (4,)], teacher=[(3, 5, 5), (2, 3, 3), (5,)])
"""The teacher's second map is larger."""

vectors = partial(features, student=[(3,)], teacher=[(5,)])
equal_vectors = partial(features, student=[(3,)], teacher=[(3,)])
graph = partial(
    features,
    student=[(2, 4, 4), (4, 2, 2), (4,), (3,)],
    teacher=[(3, 4, 4), (3, 2, 2), (6,), (3,)],
    addresses=("stages.2", "stages.3", "pool", "logits"),
)
"""The student's channels double from stage to stage, the teacher's stay."""


def widths(student: list[int], teacher: list[int]) -> Bound:
    return tuple(tuple(FeatureInfo("map", width) for width in side) for side in (student, teacher))


NORMS = [([1.0, -0.5, 0.8], [0.2, -0.4, 3.0]), ([0.5, 1.5], [-1.0, 0.5])]
"""γ and β of the batch norms in front of the teacher's ReLUs; one channel is hardly ever negative."""


def batch_norm(weight: list[float], bias: list[float]) -> nn.Module:
    norm = nn.BatchNorm2d(len(weight))
    norm.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)}, strict=False)
    return norm


preact: Bound = (
    (FeatureInfo("map", 2), FeatureInfo("map", 3)),
    tuple(FeatureInfo("map", len(norm[0]), module=batch_norm(*norm)) for norm in NORMS),
)

CLASSIFIER = [[1.0, 0.5], [-0.25, 1.0], [0.75, -0.5]]
"""The teacher's weights, one row for each class."""

head: Bound = (
    (FeatureInfo("classes", 3),),
    (FeatureInfo("classes", 3, state={"classifier": torch.tensor(CLASSIFIER)}),),
)
moved = partial(oracles.wkdl, classifier=CLASSIFIER, regulariser=0.05, iterations=10)

LOGITS = [
    case(
        "dkd",
        losses.DKD,
        oracles.dkd(ROW_LABELS, 4.0, 1.0, 8.0),
        labelled_logits,
        temperature=4.0,
        alpha=1.0,
        beta=8.0,
    ),
    case(
        "dkd_tokens",
        losses.DKD,
        oracles.dkd(TOKEN_LABELS, 1.0, 0.5, 2.0),
        labelled_token_logits,
        temperature=1.0,
        alpha=0.5,
        beta=2.0,
    ),
    case("nkd", losses.NKD, oracles.nkd(ROW_LABELS, 3.0, 3.5), labelled_logits, temperature=3.0, gamma=3.5),
    case("nkd_tokens", losses.NKD, oracles.nkd(TOKEN_LABELS, 1.0, 1.5), labelled_token_logits),
    case("wsld", losses.WSLD, wsld(ROW_LABELS, 4.0, labelled_logits), labelled_logits, detached=True),
    case(
        "wsld_tokens",
        losses.WSLD,
        wsld(TOKEN_LABELS, 2.0, labelled_token_logits),
        labelled_token_logits,
        detached=True,
        temperature=2.0,
    ),
    case("ttm", losses.TTM, oracles.ttm(4.0), token_logits),
    case("ttm_weighted", losses.TTM, oracles.ttm(2.0, weighted=True), logits, temperature=2.0, weighted=True),
    case("hard_teacher", losses.HardTeacher, oracles.hard_teacher(), logits),
    case("hard_teacher_tokens", losses.HardTeacher, oracles.hard_teacher(0.1), token_logits, label_smoothing=0.1),
    case("logit_standardized", losses.LogitStandardized, oracles.logit_standardized(2.0), logits),
    case(
        "logit_standardized_tokens",
        losses.LogitStandardized,
        oracles.logit_standardized(3.0),
        token_logits,
        temperature=3.0,
    ),
    case("dist", losses.DIST, oracles.dist(1.0, 1.0, 1.0), logits),
    case(
        "dist_tokens",
        losses.DIST,
        oracles.dist(2.0, 0.5, 4.0),
        token_logits,
        beta=2.0,
        gamma=0.5,
        temperature=4.0,
    ),
    # Costs are kept in float32.
    case(
        "wkdl",
        losses.WKDL,
        moved(ROW_LABELS, temperature=8.0, weight=600.0, sharpen=1.0),
        labelled_logits,
        bound=head,
        rtol=1e-6,
    ),
    case(
        "wkdl_tokens",
        losses.WKDL,
        moved(TOKEN_LABELS, temperature=2.0, weight=25.0, sharpen=2.0),
        labelled_token_logits,
        bound=head,
        rtol=1e-6,
        temperature=2.0,
        weight=25.0,
        sharpen=2.0,
    ),
]

MAPS = [
    case("attention_transfer", losses.AttentionTransfer, oracles.attention_transfer(), maps),
    case(
        "attention_transfer_l2",
        losses.AttentionTransfer,
        oracles.attention_transfer(3.0, "l2"),
        maps,
        power=3.0,
        norm="l2",
    ),
    case("nst_mmd", losses.NSTMMD, oracles.nst_mmd, maps),
    case("nst_mmd_many_channels", losses.NSTMMD, oracles.nst_mmd, wide_maps),
    case("channel_wise", losses.ChannelWise, oracles.channel_wise(4.0), equal_maps, temperature=4.0),
    case("vid", losses.VID, oracles.vid(), maps, bound=widths([2], [3])),
    case("overhaul", losses.Overhaul, oracles.overhaul(NORMS), stages, bound=preact, rtol=1e-6),  # float32 margins
    case("afd", losses.AFD, oracles.afd, equal_maps, bound=widths([3], [3])),
    case("review_kd", losses.ReviewKD, oracles.review_kd, pyramid, bound=widths([2, 3, 4], [3, 2, 5])),
    case(
        "masked_generative",
        losses.MaskedGenerative,
        oracles.masked_generative(0.65, "pixel", SEED, with_ids(0, maps).sample_id),
        partial(with_ids, sample=maps),
        bound=widths([2], [3]),
    ),
    case(
        "masked_generative_channels",
        losses.MaskedGenerative,
        oracles.masked_generative(0.4, "channel", SEED, with_ids(0, maps).sample_id),
        partial(with_ids, sample=maps),
        bound=widths([2], [3]),
        masked=0.4,
        per="channel",
    ),
    case("vkd", losses.VkD, oracles.vkd, equal_vectors),
    case("wkdf", losses.WKDF, oracles.wkdf(4.0, 1), maps, bound=widths([2], [3])),
    case(
        "wkdf_grid",
        losses.WKDF,
        oracles.wkdf(3.0, 2),
        uneven_maps,
        bound=widths([2], [3]),
        mean_weight=3.0,
        grid=2,
    ),
]

RELATIONS = [
    case("rkd_distance", losses.RKDDistance, oracles.rkd_distance, vectors),
    case("rkd_angle", losses.RKDAngle, oracles.rkd_angle, vectors),
    case("similarity_preserving", losses.SimilarityPreserving, oracles.similarity_preserving, maps),
    case("pkt", losses.PKT, oracles.pkt, vectors),
    case("correlation_congruence", losses.CorrelationCongruence, oracles.correlation_congruence(0.4), vectors),
    case(
        "correlation_congruence_longer",
        losses.CorrelationCongruence,
        oracles.correlation_congruence(0.7, 4),
        maps,
        gamma=0.7,
        order=4,
    ),
    case("irg", losses.IRG, oracles.irg(0.1, 5.0, 5.0), graph),
]

TOKENS = [
    case("cosine_relation", losses.CosineRelation, oracles.cosine_relation, hidden),
    case("cosine_relation_maps", losses.CosineRelation, oracles.cosine_relation, maps),
    case("cross_relations", losses.CrossRelations, oracles.cross_relations(4), two_heads),
    case("cross_relations_two_heads", losses.CrossRelations, oracles.cross_relations(2), two_heads, relation_heads=2),
]

IMAGES = [*LOGITS, *MAPS, *RELATIONS, *TOKENS]
