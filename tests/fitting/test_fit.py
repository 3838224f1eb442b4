"""`fewstep fit`: a plan is fitted to a body, stored and found again, and nothing is lost."""

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from fewstep.fitting import fit as verb
from fewstep.fitting import judgement, teacher_samples
from fewstep.fitting import search as searching
from fewstep.fitting import task as tasks
from fewstep.fitting.feature_tradeoff import COST, ENERGY_PART, FeatureTradeoff, Trade
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import build_plan
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.search import search
from fewstep.fitting.start_plans import select_starts
from fewstep.fitting.task import open_fit_task
from fewstep.measure.teacher import NO_TEACHER
from fewstep.plans.any_plan import regroup
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.sampling.test_fitted_plans import calibrate_with_clip, give

FEW = {"steps": 2, "plan": "dpmpp_2m:2", "seeds": 8, "selection_seeds": 8, "judge_seeds": 8}
HALVES = SimpleNamespace(name="halves", extract=lambda samples: samples.reshape(len(samples), 2, -1).mean(axis=2))


def test_a_plan_is_fitted_kept_and_found_again(tiny_bundle, tmp_path):
    result = fit(FitOptions(tiny_bundle, guidance=2.0, output=tmp_path / "plan.json", **FEW))
    assert result.on_judge.mean > 3
    assert result.plan is not None
    (entry,) = open_bundle(tiny_bundle).manifest.fitted
    assert (entry.evaluations, entry.body, entry.nominal) == (2, "float32", "dpmpp_2m:2")
    assert entry.psnr == pytest.approx(entry.nominal_psnr + result.on_judge.mean, abs=2e-3)
    assert verify(VerifyOptions(tiny_bundle)).is_whole
    with load(tiny_bundle) as sampler:
        assert sampler.compile("fitted:2", 2.0) == result.plan
        of_file = sampler.sample(tmp_path / "plan.json", [1], {"class": [0]})
        np.testing.assert_array_equal(sampler.sample("fitted:2", [1], {"class": [0]}, 2.0), of_file)


def test_samples_of_a_fit_have_the_energy_of_the_teachers(tiny_bundle):
    options = FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "iterations": 1})
    task = open_fit_task(options)
    *_, found = search(task)
    blocks = (*found.seeds.fit, *found.seeds.selection)
    made = np.concatenate(list(task.rolled.sample_blocks(build_plan(found.numbers), blocks)))
    ratio = np.square(made).sum() / np.square(np.concatenate([block.required_target for block in blocks])).sum()
    assert abs(ratio - 1) < 1e-5


def test_a_result_has_the_price_of_the_energy(tiny_bundle):
    result = fit(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "iterations": 1}))
    assert result.trade.factor == result.trade.energy and result.trade.price <= ENERGY_PART * COST
    assert (result.trade.weight, result.trade.features, result.sets) == (0, 0, None)  # no extractor knows these data


def test_a_result_has_distances_of_sets_where_an_extractor_knows_the_data(tiny_bundle, monkeypatch):
    asked = []

    def open_pixels(features, x_shape, threads):
        asked.append((features, x_shape))
        return SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1)[:, :3])

    monkeypatch.setattr(tasks, "open_extractor", open_pixels)
    found = fit(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "judge_seeds": 16}))
    assert asked == [("none", open_bundle(tiny_bundle).manifest.x_shape)]
    assert found.trade.features > 0 and found.trade.price <= COST
    assert found.features == "pixels" and found.sets.error > 0
    assert 0 < found.sets.frechet < found.sets.frechet_paired


def test_without_iterations_the_trade_goes_on_from_a_fitted_plan(tiny_bundle, monkeypatch):
    previous_plan = fit(FitOptions(tiny_bundle, guidance=2.0, **FEW)).plan
    monkeypatch.setattr(tasks, "open_extractor", lambda *_: HALVES)
    options = FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": "fitted:2", "iterations": 0})
    *_, found = search(open_fit_task(options))
    np.testing.assert_allclose(build_plan(found.origin).steps[0].update, previous_plan.steps[0].update)
    assert found.done == 0 and found.trade.features > 0.1 and found.trade.price <= COST
    with pytest.raises(UserError, match="give at least 0"):
        FitOptions(tiny_bundle, iterations=-1)


def test_a_second_fit_for_the_same_use_takes_the_place_of_the_first(tiny_bundle):
    for guidance in (2.0, None, 2.0):
        fit(FitOptions(tiny_bundle, guidance=guidance, iterations=1, **FEW))
    assert len(open_bundle(tiny_bundle).manifest.fitted) == 2


def test_int8_runs_the_plan_that_was_fitted_to_float32(tiny_bundle):
    result = fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW))
    assert result.body == result.plan.fitted.body == "float32"
    with load(tiny_bundle, "int8") as sampler:
        assert sampler.compile("fitted:2", 2.0).steps == regroup(result.plan, sampler.body.groups).steps


def test_a_fit_begins_at_the_plan_that_a_previous_fewstep_fitted_to_int8(tiny_bundle):
    previous = give(tiny_bundle, body="int8-cpu-x86")
    starts = open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "steps": 3, "plan": "fitted:3"})).starts
    assert starts.request.steps == previous.steps and starts.request.fitted is None and len(starts.nominal) > 1
    with refuses(("'fitted:3'", "guidance 2", "none")):
        open_fit_task(FitOptions(tiny_bundle, **{**FEW, "steps": 3, "plan": "fitted:3"}))
    with refuses(("'fitted:3'", "3 evaluations", "--steps is 2")):
        open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": "fitted:3"}))


def test_gains_are_over_the_best_plan_without_a_fit_wherever_a_fit_begins(tiny_bundle):
    given = {**FEW, "plan": None}
    fresh = fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **given))
    found = fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **{**FEW, "plan": "fitted:2"}))
    assert (found.nominal, found.nominal_psnr) == (fresh.nominal, fresh.nominal_psnr)


def test_a_fit_goes_on_from_a_previous_one(tiny_bundle, tmp_path):
    first = fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, output=tmp_path / "plan.json", **FEW))
    for plan in ("fitted:2", str(tmp_path / "plan.json")):
        starts = open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": plan})).starts
        assert starts.plans == (starts.request,) and starts.request.steps == first.plan.steps


def test_a_plan_that_began_as_a_file_is_a_beginning_too(tiny_bundle, tmp_path):
    with load(tiny_bundle) as sampler:
        mine = msgspec.structs.replace(sampler.compile("dpmpp_2m:2", 2.0), name="mine")
    (tmp_path / "mine.json").write_bytes(encode(mine))
    first = fit(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": str(tmp_path / "mine.json")}))
    assert first.nominal == "mine" and first.plan is not None
    for plan in (None, "fitted:2"):
        open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": plan}))


@pytest.mark.parametrize("plan", ["dpmpp_2m:2", None])
def test_an_interrupted_fit_goes_on_from_its_best_and_chooses_no_start_again(tiny_bundle, caplog, monkeypatch, plan):
    options = FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": plan})
    task = open_fit_task(options)
    states = search(task)
    next(states)
    first = next(states)
    states.close()
    monkeypatch.setattr(FitSampler, "measure_columns", lambda *_: pytest.fail("a start is measured again"))
    again = next(search(task))
    assert "resuming an unfinished fit after 1 steps" in caplog.text
    np.testing.assert_array_equal(again.numbers.rows, first.numbers.rows)
    np.testing.assert_array_equal(again.numbers.times, first.numbers.times)


VERSION, PROCESSOR, *REST = teacher_samples.arithmetic_facts()
OTHERS = {
    "runtime": ("arithmetic_facts", lambda: ("1000.0", PROCESSOR, *REST)),
    "processor": ("arithmetic_facts", lambda: (VERSION, "another", *REST)),
    "code": ("code_digest", lambda: b"an edit"),
}


@pytest.mark.parametrize(("of", "other"), OTHERS.values(), ids=OTHERS)
def test_what_another_fewstep_engine_or_processor_left_is_not_taken(tiny_bundle, monkeypatch, caplog, of, other):
    options = FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW)
    task, made, real = open_fit_task(options), [], teacher_samples._store
    monkeypatch.setattr(teacher_samples, "_store", lambda *given: made.append(given) or real(*given))
    states = search(task)
    next(states)
    next(states)
    states.close()
    blocks = len(made)
    next(search(task))
    assert len(made) == blocks > 0 and "resuming an unfinished fit after 1 steps" in caplog.text
    monkeypatch.setattr(teacher_samples, of, other)
    caplog.clear()
    next(search(task))
    assert len(made) == 2 * blocks and "resuming" not in caplog.text


def test_without_a_gain_the_nominal_plan_is_kept(tiny_bundle, monkeypatch):
    monkeypatch.setattr(searching, "refine", lambda *_: iter(()))
    result = fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW))
    assert result.plan is None
    assert open_bundle(tiny_bundle).manifest.fitted == ()


@pytest.mark.slow
def test_workers_find_the_same_plan_bit_by_bit(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "open_extractor", lambda *_: HALVES)
    found = []
    for workers in (0, 1, 4):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{workers}"))  # each makes the teacher's samples
        given = {**FEW, "seeds": 32, "workers": workers}
        found.append(fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, threads=1, **given)))
    assert found[0].plan is not None and found[0].trade.weight > 0
    assert found[0].plan == found[1].plan == found[2].plan
    assert found[0].on_judge == found[1].on_judge == found[2].on_judge


def test_a_fit_that_starts_from_a_guided_plan_file_is_compared_with_guided_plans(tiny_bundle, tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(encode(give(tiny_bundle, guidance=2.0)))
    with load(tiny_bundle) as sampler:
        starts = select_starts(sampler, parse_plan_text(str(file)), 3, None)
    assert {plan.guidance for plan in (*starts.nominal, starts.request)} == {Cfg(2.0)}


def test_a_bundle_whose_calibration_clips_is_not_fitted(tiny_bundle):
    calibrate_with_clip(tiny_bundle)
    words = r"was calibrated along ddim:3, clipped to \[-1, 1\], but fitted plans do not clip; run more steps"
    with pytest.raises(UserError, match=words):
        open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **FEW))


def test_a_bundle_that_changes_meanwhile_is_not_written(tiny_bundle, monkeypatch):
    options = FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW)
    real = verb.open_fit_task
    monkeypatch.setattr(verb, "open_fit_task", lambda given: replace(real(given), graph="1" * 64))
    with pytest.raises(UserError, match="changed during the fit"):
        fit(options)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 0}, "--steps is 0"),
        ({"seeds": 3}, "--seeds is 3"),
        ({"iterations": -1}, "--iterations is -1"),
        ({"workers": -1}, "--workers is -1"),
        ({"output": "plan.txt"}, "a plan cannot be written to .*plan.txt"),
        ({"plan": "dpmpp_2m:3"}, "has 3 evaluations, but --steps is 2"),
        ({"plan": "ddim(eta=1):2"}, "draws noise in its steps"),
        ({"backend": "qnn"}, "has no float32; choose one of int8"),
        (
            {"teacher": "dpmpp_2m:2"},
            "a teacher: it has 2 evaluations, and the fitted plan has 2; name one with many more",
        ),
        ({"teacher": "dpmpp_2m:1"}, "a teacher: it has 1 evaluation, and the fitted plan has 2"),
        (
            {"teacher": "ddpm:20"},
            "plan ddpm:20 cannot be a teacher: it draws noise in its steps, and other plans draw none or other; give a "
            "teacher that draws none, such as ddim:100, or leave it out",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(tiny_bundle, changed, words):
    with pytest.raises(UserError, match=words):
        open_fit_task(FitOptions(tiny_bundle, **{**FEW, **changed}))


def test_a_distilled_denoiser_has_nothing_to_fit_to_unless_it_is_named(tiny_bundle):
    asked = {**FEW, "plan": "dpmpp_2m:2"}
    change_bundle(tiny_bundle, distilled=True)
    with pytest.raises(UserError, match=f"{NO_TEACHER}; run it"):
        open_fit_task(FitOptions(tiny_bundle, **{**asked, "teacher": None}))
    assert len(open_fit_task(FitOptions(tiny_bundle, **{**asked, "teacher": "dpmpp_2m:24"})).teacher.steps) == 24


@pytest.mark.parametrize("plan", [None, "dpmpp_2m:2"])
def test_guidance_without_an_unconditional_form_is_refused(tiny_bundle, plan):
    (label,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(label, null=None),))
    words = "guidance 2.0 needs an unconditional branch, which this denoiser lacks; leave guidance out"
    with pytest.raises(UserError, match=words):
        open_fit_task(FitOptions(tiny_bundle, guidance=2.0, **{**FEW, "plan": plan}))


def test_a_better_previous_plan_stays(tiny_bundle):
    better = {"guidance": 2.0, "iterations": 3, **FEW}
    first = fit(FitOptions(tiny_bundle, **better))
    assert first.over_previous is None
    manifest = open_bundle(tiny_bundle).manifest
    worse = fit(FitOptions(tiny_bundle, **{**better, "plan": "ddim:2", "iterations": 1}))
    assert worse.on_judge.is_significant and worse.over_previous.mean < -1
    assert worse.plan is None
    assert open_bundle(tiny_bundle).manifest == manifest
    again = fit(FitOptions(tiny_bundle, **better))
    assert (again.over_previous.mean, again.plan) == (0, first.plan)


@pytest.mark.parametrize("price", [0.0, 100.0])
def test_a_previous_plan_gives_way_to_features_that_it_lacks_only_at_their_price(tiny_bundle, monkeypatch, price):
    """Otherwise each fit with other options could again lose the price of the trade."""
    better = {"guidance": 2.0, "iterations": 3, **FEW}
    previous = fit(FitOptions(tiny_bundle, **better))
    monkeypatch.setattr(tasks, "open_extractor", lambda *_: HALVES)
    monkeypatch.setattr(judgement, "are_nearer", lambda *_: True)
    monkeypatch.setattr(FeatureTradeoff, "trade", lambda trader: (trader.work.origin, Trade(price, 1.0, 1.0, 1.0, 1.0)))
    worse = fit(FitOptions(tiny_bundle, **{**better, "plan": "ddim:2", "iterations": 1}))
    assert -100 < worse.over_previous.mean < -1 and worse.on_judge.is_significant
    assert (worse.plan is not None) == (price > 0)
    (entry,) = open_bundle(tiny_bundle).manifest.fitted
    kept = worse if worse.plan is not None else previous
    assert entry.psnr == pytest.approx(kept.nominal_psnr + kept.on_judge.mean, abs=2e-3)


def test_damage_to_the_teachers_samples_is_no_part_of_a_fit(tiny_bundle, caplog):
    options = FitOptions(tiny_bundle, guidance=2.0, **FEW)
    plan = fit(options).plan
    (first, *_) = files = sorted(cache.path("fitting", "").glob("*.npy"))
    assert len(files) == 3  # a block of each use
    content = bytearray(first.read_bytes())
    content[-64:] = bytes(64)
    first.write_bytes(content)
    assert fit(options).plan == plan
    assert f"{first} is damaged, and is made again" in caplog.text
    assert first.read_bytes() != content
