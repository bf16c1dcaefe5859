from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_lightning import schedules
from kd_lightning.core.errors import ConfigError

TABLE = [
    (schedules.Constant(), {0.0: 1, 0.5: 1, 1.0: 1}),
    (schedules.Constant(0.25), {0.0: 0.25, 1.0: 0.25}),
    (schedules.LinearDecay(), {0.0: 1, 0.25: 0.75, 1.0: 0}),
    (schedules.LinearGrowth(), {0.0: 0, 0.25: 0.25, 1.0: 1}),
    (schedules.Warmup(0.1), {0.0: 0, 0.05: 0.5, 0.1: 1, 0.7: 1, 1.0: 1}),
    (schedules.Warmup(1.0), {0.0: 0, 0.5: 0.5, 1.0: 1}),
    (schedules.Cosine(), {0.0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1.0: 0}),
]


@pytest.mark.parametrize(("schedule", "values"), TABLE, ids=lambda x: str(x)[:30])
def test_schedules_have_the_values_of_their_formulas(schedule, values):
    assert {x: schedule(x) for x in values} == pytest.approx(values, abs=1e-12)


@given(st.floats(0, 1), st.sampled_from([schedule for schedule, _ in TABLE]))
def test_factors_stay_between_zero_and_one(progress, schedule):
    assert 0 <= schedule(progress) <= 1


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_warm_up_over_no_share_of_training_is_an_error(share):
    with pytest.raises(ConfigError, match=r"`share` of Warmup to be in \(0, 1\]"):
        schedules.Warmup(share)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in TABLE], ids=str)
def test_schedules_pickle(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
