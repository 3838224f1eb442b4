"""A teacher's states are the exact trajectory's between its own steps, and its path has times where it bends."""

import tracemalloc
from math import prod

import numpy as np
import pytest

from fewstep.calibration.fitting.path import CHOICES, path_bytes, path_through, shortest_path, teacher_states
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.calibration.fitting import analytic
from tests.calibration.fitting.analytic import Analytic, blocks, facts, gaussian, mixture

FAMILIES = [("cosine", "v"), ("flow", "flow"), ("edm", "edm")]


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_states_of_gaussian_data_are_the_closed_form(kind, prediction):
    sampler = Analytic(facts(kind, prediction), gaussian())
    (block,) = blocks(range(8))
    steps = compile_plan("ddim:5@arctan", sampler.facts).steps[1:]
    first = NoiseSchedule(sampler.facts.schedule).noisiest
    *states, _ = teacher_states(sampler, compile_plan("dpmpp_2m:80@arctan", sampler.facts), block, steps)
    for step, state in zip(steps, states, strict=True):
        spread = np.sqrt((step.alpha**2 * 0.25**2 + step.sigma**2) / (first.alpha**2 * 0.25**2 + first.sigma**2))
        wanted = step.alpha * 0.4 + spread * (first.sigma * block.draws(0) - first.alpha * 0.4)
        wanted = wanted.reshape(8, -1)
        np.testing.assert_allclose(state, wanted, atol=0.01 * np.sqrt(np.square(wanted).mean()))


def test_a_state_with_more_than_signal_and_noise_is_refused():
    sampler = Analytic(DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), mixture)
    plan = compile_plan("dpmpp_2m:4", sampler.facts)
    with pytest.raises(UserError, match="have other parts than x0 and noise"):
        teacher_states(sampler, plan, blocks(range(8))[0], plan.steps)


def test_a_path_has_its_times_where_predictions_bend():
    """x0 bends at one time alone: a path of three steps has a place there."""
    rng = np.random.default_rng(0)
    before, after, start = rng.normal(size=(3, 1, 64))
    shares = np.linspace(1, 0, 13)[:, None, None]
    predictions = np.stack([before] * 6 + [after] * 6)
    drift = np.cumsum(predictions / 12, axis=0)
    states = np.concatenate([start[None], shares[1:] * start + drift])
    path = shortest_path(states, predictions, 2)
    assert path == (0, 6, 12)


def test_a_path_takes_the_memory_that_is_announced(monkeypatch):
    shape = (1, 64, 64)
    monkeypatch.setattr(analytic, "X_SHAPE", shape)
    sampler = Analytic(facts("cosine", "v"), gaussian())
    teacher, probe = (sampler.compile(name) for name in ("dpmpp_2m:80@arctan", f"ddim:{CHOICES}@arctan"))
    tracemalloc.start()
    path_through(sampler, teacher, blocks(range(16)), probe, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    announced = path_bytes(16, prod(shape), len(teacher.steps))
    assert 0.6 * announced < peak < announced
