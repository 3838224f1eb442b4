"""The teacher of a fit: exact between its own steps. One that is too inexact for its plan gives no plan."""

import tracemalloc
from math import prod

import numpy as np
import pytest

from fewstep.fitting import fit as verb
from fewstep.fitting import teacher_gate
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.search import search
from fewstep.fitting.task import open_fit_task
from fewstep.fitting.teacher_path import CHOICES, find_path, path_bytes, shortest_path, teacher_states
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import FIT_SEEDS, held_out_conditions
from fewstep.measure.teacher import Teacher, TeacherCheck
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.fitting import analytic
from tests.fitting.analytic import Analytic, blocks, facts, gaussian, mixture
from tests.fitting.test_fit import FEW
from tests.refusals import refuses


def test_a_fitted_plan_is_no_teacher(tiny_bundle):
    fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW))
    given = {**FEW, "steps": 1, "plan": "ddim:1", "teacher": "fitted:2"}
    with refuses("plan fitted:2 cannot be a teacher"):
        open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **given))


def test_the_teacher_is_checked_with_the_fitted_plan(tiny_bundle):
    result = fit(FitOptions(tiny_bundle, guidance=2.0, **FEW))
    assert result.check.teacher == result.teacher == "dpmpp_2m:80@arctan"
    with load(tiny_bundle) as sampler:
        held_out = held_out_conditions(sampler.bundle.manifest, FIT_SEEDS[:4])
        of = {
            name: sampler.sample(name, FIT_SEEDS[:4], held_out, 2.0)
            for name in ("fitted:2", "dpmpp_2m:2", "dpmpp_2m:160@arctan")
        }
    assert result.check.judged == pytest.approx(psnr(of["fitted:2"], of["dpmpp_2m:160@arctan"]).mean(), abs=1e-3)
    assert result.check.judged > psnr(of["dpmpp_2m:2"], of["dpmpp_2m:160@arctan"]).mean() + 1


def test_a_teacher_that_is_too_near_to_the_nominal_plan_is_refused_before_the_fit(tiny_bundle, tmp_path, monkeypatch):
    given = {**FEW, "teacher": "ddim:3"}
    monkeypatch.setattr(verb, "search", lambda *_: pytest.fail("it was fitted"))
    words = "twice as many steps, the teacher ddim:3 has .* dB, less than 10 dB above the .* dB of dpmpp_2m:2; "
    with pytest.raises(UserError, match=words + "leave --teacher out, which takes dpmpp_2m:80@arctan or more steps"):
        fit(FitOptions(tiny_bundle, guidance=2.0, **given))
    monkeypatch.setattr(verb, "search", search)
    result = fit(FitOptions(tiny_bundle, guidance=2.0, output=tmp_path / "plan.json", **given))
    assert result.on_judge.mean > 10 and not result.is_kept and "the teacher ddim:3 has " in result.weak_teacher
    assert decode((tmp_path / "plan.json").read_bytes(), "") == result.plan
    assert open_bundle(tiny_bundle).manifest.fitted == ()


def test_a_teacher_that_is_worse_than_a_previous_plan_does_not_replace_it(tiny_bundle):
    fit(FitOptions(tiny_bundle, guidance=2.0, **FEW))
    manifest = open_bundle(tiny_bundle).manifest
    with refuses(("ddim:20", "42.5 dB", "fitted:2", "41.5 dB")):
        fit(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "teacher": "ddim:20"}))
    assert open_bundle(tiny_bundle).manifest == manifest


def test_the_same_fit_keeps_its_plan_twice(tiny_bundle):
    """The teacher is hardly nearer than the first plan, but it judges both."""
    options = FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "teacher": "ddim:20"})
    first, second = fit(options), fit(options)
    assert first.is_kept and not first.check.suffices
    assert second.is_kept and second.over_previous.mean == 0 and second.plan == first.plan


@pytest.mark.slow
@pytest.mark.parametrize(("ends_at", "is_kept"), [(56.0, False), (57.5, True), (49.0, True)])
@pytest.mark.parametrize("has_previous", [True, False])
def test_a_teacher_that_fails_its_check_after_the_fit_keeps_no_plan_that_is_behind(
    tiny_bundle, monkeypatch, ends_at, is_kept, has_previous
):
    """One that suffices may give a plan that is worse on the few seeds of the check."""
    if has_previous:
        fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW))
    before = open_bundle(tiny_bundle).manifest
    plan = open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **FEW)).teacher
    checks = [TeacherCheck("dpmpp_2m:80@arctan", 60.0, at, 4) for at in (12.0, *([58.0] * has_previous), ends_at)]
    monkeypatch.setattr(teacher_gate, "find_teacher", lambda *_: Teacher(plan, checks.pop(0)))
    result = fit(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "teacher": None}))
    assert result.plan is not None and result.is_kept == (is_kept or not has_previous)
    assert (open_bundle(tiny_bundle).manifest == before) == (not result.is_kept)
    if not result.is_kept:
        words = "has 60.0 dB, less than 10 dB above the 58.0 dB of fitted:2"
        fix = "give --teacher dpmpp_2m:160@arctan"
        assert (
            result.weak_teacher == f"compared with twice as many steps, the teacher dpmpp_2m:80@arctan {words}; {fix}"
        )


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
        wanted = step.alpha * 0.4 + spread * (first.sigma * block.draw_noise(0) - first.alpha * 0.4)
        wanted = wanted.reshape(8, -1)
        np.testing.assert_allclose(state, wanted, atol=0.01 * np.sqrt(np.square(wanted).mean()))


def test_a_state_with_more_than_signal_and_noise_is_refused():
    sampler = Analytic(DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), mixture)
    plan = compile_plan("dpmpp_2m:4", sampler.facts)
    with pytest.raises(UserError, match="have parts other than x0 and noise"):
        teacher_states(sampler, plan, blocks(range(8))[0], plan.steps)


def test_a_path_has_its_times_where_predictions_bend():
    """x0 bends at one time only, where a path of three steps puts a time."""
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
    find_path(sampler, teacher, blocks(range(16)), probe, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    announced = path_bytes(16, prod(shape), len(teacher.steps))
    assert 0.6 * announced < peak < announced
