from __future__ import annotations

import functools
from typing import Any

import hydra
import pytest
from torch import nn

import kd_lightning as kd
from kd_lightning.cli.configs import CONFIGS, compose_config
from kd_lightning.core.errors import ConfigError, MatchError
from kd_lightning.core.types import ModelInfo
from kd_lightning.features import model_info

from ..toys import bert

NAMES = sorted(file.stem for file in (CONFIGS / "match").rglob("*.yaml") if file.stem != "exits")
TABLE = {
    "L3": [(1, 4), (2, 8), (3, 12)],
    "L4": [(1, 3), (2, 6), (3, 9), (4, 12)],
    "L6": [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12)],
    "small": [(2, 2), (4, 4), (6, 6), (8, 8), (10, 10), (12, 12)],
}
"""TextBrewer's examples/matches/matches.py, for a teacher of 12 layers; hidden schemes add (0, 0)."""
DEPTHS = {"L3": 3, "L4": 4, "L6": 6, "small": 12}


@functools.cache
def config(name: str) -> Any:
    return compose_config([f"match=[{name}]"]).objective


@functools.cache
def info(layers: int, width: int = 16) -> ModelInfo:
    return model_info(bert(layers, width))


def schemes(name: str) -> dict[str, kd.MatchScheme]:
    terms = hydra.utils.instantiate(config(name)).declared
    return {key: term for key, term in terms.items() if isinstance(term, kd.MatchScheme)}


def layers(scheme: kd.MatchScheme, student: int, teacher: int = 12) -> list[tuple[int, int]]:
    """Return the layers of each match; for pairs [k, k] of layers, k once, as they must be equal."""
    found = []
    for _, match in scheme.matches(student, teacher):
        sides = [
            {int(address.rpartition(".")[2]) for address in addresses}
            for addresses in (match.student_addresses, match.teacher_addresses)
        ]
        assert [len(side) for side in sides] == [1, 1]
        found.append((sides[0].pop(), sides[1].pop()))
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("_")[0].rstrip("nt") in TABLE])
def test_textbrewers_names_pair_textbrewers_layers(name):
    kind = name.split("_")[0].rstrip("nt")
    expected = ([(0, 0)] if "hidden" in name else []) + TABLE[kind]
    made = schemes(name)
    assert len(made) == 1
    for scheme in made.values():
        assert layers(scheme, DEPTHS[kind]) == expected
        assert scheme.feature == ("hidden" if "hidden" in name else "attention")


def test_all_of_textbrewers_names_are_there():
    kinds = ["hidden_mse", "hidden_sgram", "hidden_smmd"]
    kinds += ["attention_ce", "attention_ce_mean", "attention_mse", "attention_mse_sum"]
    asked = {f"{depth}_{kind}" for depth in TABLE for kind in kinds}
    assert asked | {"L3n_hidden_mse", "L4t_hidden_mse", "L4t_hidden_sgram"} <= set(NAMES)


@pytest.mark.parametrize("name", ["L3_hidden_mse", "L3n_hidden_mse", "L4t_hidden_mse", "L6_attention_mse"])
def test_a_name_that_fixes_the_depth_refuses_another_in_a_sentence(name):
    wanted = DEPTHS[name.split("_")[0].rstrip("nt")]
    with pytest.raises(MatchError, match=f"made for {wanted} student layers, but the student has 5"):
        kd.Objective(schemes(name)).bind(info(5), info(6))


def test_names_without_a_depth_adapt():
    (scheme,) = schemes("hidden_mse").values()
    assert layers(scheme, 4, 6) == [(0, 0), (1, 2), (2, 3), (3, 5), (4, 6)]
    assert layers(scheme, 3, 6) == [(0, 0), (1, 2), (2, 4), (3, 6)]
    (fixed,) = schemes("L3_attention_mse").values()
    assert layers(fixed, 3, 6) == [(1, 2), (2, 4), (3, 6)]


@pytest.mark.parametrize(
    ("name", "loss", "paired"),
    [
        ("hidden_mse", kd.losses.HiddenMSE, False),
        ("hidden_smmd", kd.losses.NST, True),
        ("hidden_sgram", kd.losses.FSP, True),
        ("attention_mse", kd.losses.AttentionMSE, False),
        ("attention_mse_sum", kd.losses.AttentionMSESum, False),
        ("attention_mse_mean", kd.losses.AttentionMSEMean, False),
        ("attention_ce", kd.losses.AttentionCE, False),
        ("attention_ce_mean", kd.losses.AttentionCEMean, False),
    ],
)
def test_each_name_has_its_loss(name, loss, paired):
    (scheme,) = schemes(name).values()
    assert type(scheme.loss) is loss
    (_, match), *_ = scheme.matches(4, 12)
    assert len(match.student_addresses) == len(match.teacher_addresses) == (2 if paired else 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_match_is_bound_to_models_of_equal_and_of_other_widths(name):
    student = {"L3": 3, "L4": 4, "L6": 6}.get(name.split("_")[0].rstrip("nt"), 2)
    made = kd.Objective(schemes(name)).bind(info(student), info(6))
    wide = kd.Objective(schemes(name)).bind(info(student), info(6, 24))
    assert not made.projections(), "equal widths need no projection"
    equal = (kd.losses.HiddenMSE, kd.losses.HiddenCosine, kd.losses.FSP)
    losses = {
        key: getattr(term.loss, "loss", term.loss) for key, term in wide.named_terms().items()
    }  # of EMD the inner
    wanted = {key for key, loss in losses.items() if isinstance(loss, equal)}
    assert set(wide.projections()) == wanted


def test_projections_stand_only_where_widths_differ():
    scheme = kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection="tanh")
    assert not kd.Objective({"h": scheme}).bind(info(2), info(4)).projections()
    assert len(kd.Objective({"h": scheme}).bind(info(2), info(4, 24)).projections()) == 2


def test_a_module_as_projection_is_copied_for_each_layer():
    own = nn.Linear(16, 24)
    scheme = kd.MatchScheme("hidden", kd.losses.HiddenMSE(), projection=own)
    made = kd.Objective({"h": scheme}).bind(info(2), info(4, 24)).projections()
    assert len({id(projection) for projection in [own, *made.values()]}) == 3


def test_weight_schedule_and_learning_rate_go_to_every_term():
    scheme = kd.MatchScheme("hidden", nn.MSELoss(), weight=0.3, schedule=kd.schedules.Cosine(), projection_lr=0.1)
    for term in kd.Objective({"h": scheme}).bind(info(2), info(4)).named_terms().values():
        assert (term.weight, term.schedule, term.projection_lr) == (0.3, kd.schedules.Cosine(), 0.1)


def test_two_features_may_be_matched_with_each_other():
    scheme = kd.MatchScheme("query", nn.MSELoss(), layers="top", teacher_feature="key")
    assert [str(match) for _, match in scheme.matches(2, 4)] == ["query.2 ← key.4"]


def test_a_stack_in_front_is_where_layers_are_counted():
    from transformers import BartConfig, BartModel

    sizes = {"vocab_size": 20, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 8}
    model = BartModel(BartConfig(encoder_layers=2, decoder_layers=3, **sizes, **heads))
    scheme = kd.MatchScheme("decoder.hidden", nn.MSELoss())
    made = kd.Objective({"h": scheme}).bind(model_info(model), model_info(model))
    assert made.student_addresses == ("decoder.hidden.1", "decoder.hidden.2", "decoder.hidden.3")


def test_a_scheme_that_matches_nothing_is_an_error():
    with pytest.raises(MatchError, match=r"Match scheme 'h'.*no student layer of 1 .* every=2"):
        kd.Objective({"h": kd.MatchScheme("hidden", nn.MSELoss(), every=2)}).bind(info(1), info(2))


# -- a map of all layers that is learned


def emd_term(student: int, teacher: int, width: int = 16, **options: Any) -> kd.Term:
    scheme = kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers="emd", projection="linear", **options)
    terms = kd.Objective({"flow": scheme}).bind(info(student), info(teacher, width)).named_terms()
    assert list(terms) == ["flow"]
    return terms["flow"]


def test_a_learned_map_is_one_term_over_all_layers_with_one_projection():
    term = emd_term(2, 3, width=24)
    assert term.match == kd.Match(["hidden.1", "hidden.2"], ["hidden.1", "hidden.2", "hidden.3"])
    assert (term.loss.student_layers, term.loss.teacher_layers) == (2, 3)
    assert isinstance(term.projection, nn.Linear)
    assert emd_term(2, 3).projection is None


def test_a_learned_map_takes_embeddings_as_one_more_layer_and_leaves_layers_out():
    assert emd_term(2, 3, embeddings=True).match.student_addresses == ("hidden.0", "hidden.1", "hidden.2")
    assert emd_term(2, 3, embeddings=True).match.teacher_addresses[0] == "hidden.0"
    assert emd_term(4, 3, every=2).match.student_addresses == ("hidden.2", "hidden.4")
    assert emd_term(1, 1).match.student_addresses == ("hidden.1",)


@pytest.mark.parametrize("name", ["hidden_emd", "attention_emd"])
def test_a_learned_map_comes_from_a_config_with_its_temperature(name):
    objective = compose_config([f"match={name}", f"objective.terms.{name}.loss.temperature=3"]).objective
    declared = {name: hydra.utils.instantiate(objective).declared[name]}
    (term,) = kd.Objective(declared).bind(info(2), info(3)).named_terms().values()
    assert term.loss.temperature == 3
    assert type(term.loss.loss).__name__ == {"h": "HiddenMSE", "a": "AttentionMSE"}[name[0]]


def test_a_learned_map_that_cannot_be_is_one_sentence():
    with pytest.raises(MatchError, match="pairs=True"):
        emd_term(2, 3, pairs=True)
    with pytest.raises(MatchError, match=r"no student layer of 2 .* every=3"):
        emd_term(2, 3, every=3)
    with pytest.raises(ConfigError, match="use layers='emd', not 'uniform'"):
        kd.MatchScheme("hidden", kd.losses.EMD(kd.losses.HiddenMSE()))


def test_a_scheme_is_shown_on_one_line_with_what_is_not_the_default():
    scheme = kd.MatchScheme("hidden", kd.losses.HiddenMSE(), layers="skip", projection="linear", weight=0.5)
    assert repr(scheme) == "MatchScheme(hidden, HiddenMSE(), layers='skip', weight=0.5, projection='linear')"
    assert repr(kd.MatchScheme("query", nn.MSELoss(), teacher_feature="key")) == (
        "MatchScheme(query, MSELoss(), teacher_feature='key')"
    )
