"""Rollouts on networks that are functions: the stored states, shared beginnings, and when each body is opened."""

import pickle
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.precision import precision_search
from fewstep.calibration.precision.timeable_targets import timeable_targets
from fewstep.calibration.ranges.histogram import make_histogram, merge_histograms
from fewstep.measure.rollouts import seeds as purposes
from fewstep.measure.rollouts.on_demand import HashOnceBundle, LazyOnnxRuntime
from fewstep.measure.rollouts.record_sizes import alternate
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.measure.rollouts.seeds import (
    BODY_SEEDS,
    FIRST_SEED,
    JUDGE_SEEDS,
    OPERATION_SEEDS,
    OTHER_SEEDS,
    SEARCH_SEEDS,
    SeedBatch,
    draw_condition,
    uniform,
)
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans import noise
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import reading
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import file_sha256, open_bundle
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from tests.calibration.test_calibrate import FIRST, SHAPE, denoiser, write_bundle
from tests.refusals import refuses

SEEDS = range(FIRST_SEED, FIRST_SEED + 12)
CLASS = Condition("class", "label", null=3, low=0, high=2)


@pytest.fixture
def sampler(tiny_bundle: Path) -> Sampler:
    return load(tiny_bundle, body="float32")


def test_every_evaluation_of_both_branches_is_seen_with_the_deployed_inputs(sampler: Sampler) -> None:
    plan = sampler.compile("heun:3", guidance=2.0)
    seen = list(roll_out(sampler, plan, SEEDS, batch=5))
    assert [len(each.seeds) for each in seen] == [n for n in (5, 5, 2) for _ in plan.steps]
    for each in seen:
        rows = 2 * len(each.seeds)
        assert each.feeds["x"].shape == each.tensors["v"].shape == (rows, 1, 4, 4)
        assert np.array_equal(each.feeds["x"][: len(each.seeds)], each.state.u)
        assert np.array_equal(each.tensors["v"], np.concatenate(each.state.outputs))


def test_trajectories_are_those_that_the_sampler_deploys(sampler: Sampler) -> None:
    plan = sampler.compile("dpmpp_2m:4", guidance=2.0)
    *_, last = roll_out(sampler, plan, SEEDS, batch=12)
    classes = [int(draw_condition(CLASS, 0, seed)) for seed in SEEDS]
    expected = sampler.sample(plan, SEEDS, {"class": classes}, 2.0)
    (row,) = (row for row, value in enumerate(plan.output) if value == 1.0)
    assert np.array_equal(last.state.after[row], expected)


def test_histograms_do_not_depend_on_the_batch(sampler: Sampler) -> None:
    plan = sampler.compile("dpmpp_2m:4", guidance=2.0)
    wholes = []
    for batch in (1, 4, 12):
        parts = [make_histogram(np.asarray(e.tensors["v"])) for e in roll_out(sampler, plan, SEEDS, batch=batch)]
        whole = parts[0]
        for part in parts[1:]:
            whole = merge_histograms(whole, part)
        wholes.append((whole.exponent, whole.counts.tolist(), whole.low, whole.high))
    assert wholes[0] == wholes[1] == wholes[2]


def test_no_more_than_two_evaluations_are_held_at_a_time(sampler: Sampler) -> None:
    inputs: list[weakref.ref[np.ndarray]] = []
    for each in roll_out(sampler, sampler.compile("ddim:3"), range(FIRST_SEED, FIRST_SEED + 40), batch=4):
        inputs.append(weakref.ref(each.feeds["x"]))
        assert sum(held() is not None for held in inputs) <= 2
    assert len(inputs) == 30


def test_conditions_are_uniform_and_fixed_by_the_seed() -> None:
    drawn = np.array([draw_condition(CLASS, 0, seed) for seed in range(3000)])
    assert drawn.dtype == np.int64
    assert np.bincount(drawn).tolist() == pytest.approx([1000] * 3, abs=80)
    other = np.array([draw_condition(CLASS, 1, seed) for seed in range(3000)])
    assert np.corrcoef(drawn, other)[0, 1] == pytest.approx(0, abs=0.06)
    state = draw_condition(Condition("state", "state", (2, 3), "float32", low=-1, high=1), 0, 5)
    assert state.shape == (2, 3) and state.dtype == np.float32 and np.abs(state).max() <= 1
    assert len(np.unique(state)) == 6


def test_each_block_of_each_condition_has_numbers_of_its_own() -> None:
    drawn = [uniform(5, number, noise.CONDITIONS, 4, block) for number in (0, 1) for block in (0, 1)]
    assert len({each.tobytes() for each in drawn}) == 4


def test_a_condition_without_bounds_cannot_be_drawn() -> None:
    with refuses("'text'", "--conditions FILE"):
        draw_condition(Condition("text", "text", (4,), "float32", high=1.0), 0, 1)


def test_calibration_never_sees_a_held_out_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trajectory starts from the noise of its seed: for counting, for judging bodies, and for judging a map."""
    seen: set[int] = set()
    real = noise.normal_batch

    def record(seeds: Sequence[int], *more: Any) -> Any:
        seen.update(map(int, seeds))
        return real(seeds, *more)

    monkeypatch.setattr(noise, "normal_batch", record)
    options = replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), target=timeable_targets()[:1])
    calibrate(options)
    tried = {*BODY_SEEDS[: options.trajectories], *OPERATION_SEEDS, *OTHER_SEEDS}
    assert seen == tried | set(range(FIRST_SEED, FIRST_SEED + options.trajectories))
    calibrate(replace(options, quality="20dB"))
    assert {seed for seed in seen if seed < FIRST_SEED} - tried == {*SEARCH_SEEDS, *JUDGE_SEEDS}


def test_seeds_of_different_purposes_are_apart() -> None:
    every = (purposes.SELECTION_SEEDS, purposes.FIT_SEEDS, purposes.CHOICE_SEEDS, range(FIRST_SEED, 2 * FIRST_SEED))
    for spans in (
        (purposes.PAIRED, purposes.APART, *every),
        (SEARCH_SEEDS, JUDGE_SEEDS, BODY_SEEDS, OPERATION_SEEDS, OTHER_SEEDS),
    ):
        assert all(one.stop <= other.start for one, other in pairwise(spans))
    assert (len(SEARCH_SEEDS), len(JUDGE_SEEDS)) == (16, 64) and OPERATION_SEEDS.stop <= every[0].stop


def test_sizes_alternate_in_proportion_to_their_records() -> None:
    assert alternate("aaaabbbb") == [0, 1, 4, 5, 2, 3, 6, 7]
    order = "".join("a" * 12 + "b" * 4)
    assert "".join(order[place] for place in alternate(order)) == "aaaabbaaaaaabbaa"
    assert sorted(alternate(order)) == [*range(16)] and alternate(list(range(5))) == [*range(5)]


def test_a_body_is_opened_on_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    body = load(bundle, body="float32", backend=LazyOnnxRuntime(threads=1)).network().graph
    assert isinstance(body, LazyGraph) and body.backend == OnnxRuntime(threads=1)


def test_files_are_hashed_once_however_often_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    sampler = load(bundle, body="float32", backend=LazyOnnxRuntime())
    body, hashed = sampler.network().graph, list[Path]()
    assert isinstance(body, LazyGraph)
    monkeypatch.setattr(reading, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    feeds = {"x": np.zeros((1, *SHAPE), np.float32), "row": np.ones((1, 1, 1, 1), np.float32)}
    for _ in range(2):
        body(feeds)
        body.close()
    assert [path.name for path in hashed] == [Path(sampler.body.graph.file).name]


def test_a_bundle_that_hashes_once_does_so_in_another_process_too(tmp_path: Path) -> None:
    opened = open_bundle(write_bundle(tmp_path / "bundle", denoiser()))
    bundle = HashOnceBundle(opened.path, opened.manifest)
    received = pickle.loads(pickle.dumps(bundle))
    assert type(received) is HashOnceBundle and received == bundle


def test_an_output_does_not_hold_the_memory_of_the_closed_network(tmp_path: Path) -> None:
    body = load(write_bundle(tmp_path / "bundle", denoiser()), body="float32", backend=LazyOnnxRuntime())
    made = body.network().graph({"x": np.zeros((1, *SHAPE), np.float32), "row": np.ones((1, 1, 1, 1), np.float32)})
    assert [each.flags.owndata for each in made.values()] == [True]


Y = np.random.default_rng(1).standard_normal((2, 1, 4)).astype(np.float32)


def graph(gain: float) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda feeds: {"v": np.tanh(np.float32(gain) * feeds["x"])}


def course_of(plan: Plan) -> RecordedRun:
    batch, exact = SeedBatch(range(2), (1, 4), dict.fromkeys(plan.given, Y)), graph(1.0)
    states = batch.run(plan, lambda i, step, u: [exact({"x": u})["v"]])
    return RecordedRun(plan, batch, tuple(states), (({},),) * len(plan.steps), ("x", "v"))


def test_each_group_runs_its_own_graph() -> None:
    """Also if a plan returns to an earlier group, as plans do that add noise on the way."""
    plan = compile_plan("dpmpp_2m:6", DenoiserFacts(ScheduleSpec("cosine"), "v"))
    steps = tuple(msgspec.structs.replace(s, group=g) for s, g in zip(plan.steps, (0, 1, 2, 0, 1, 2), strict=True))
    course, ran = course_of(msgspec.structs.replace(plan, steps=steps)), list[int]()

    def number_graph(number: int) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda feeds: (ran.append(number), graph(1.0)(feeds))[1]

    states = course.run([number_graph(0), number_graph(1), number_graph(2)])
    assert course.groups == 3 and ran == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(states[-1].after[0], course.states[-1].after[0])


def test_a_plan_that_restores_starts_from_what_it_is_given() -> None:
    course = course_of(compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v", towards="y")))
    states = course.run([graph(1.0)])
    np.testing.assert_array_equal(states[0].u, course.states[0].u)
    assert course.decibels(states) == pytest.approx([200.0, 200.0])  # the ceiling: equal


def test_the_time_of_another_network_is_the_median_of_rounds_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the networks advance: the load of one round affects one ratio."""
    course = course_of(compile_plan("ddim:4", DenoiserFacts(ScheduleSpec("cosine"), "v")))
    now = 0.0
    calls: list[str] = []

    def taking(name: str, seconds: float) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        def note_call(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal now
            calls.append(name)
            is_loaded = len(calls) in (1, 2, 5)  # the first calls, which allocate, and one of a round
            now += seconds * (100 if is_loaded else 1)
            return graph(1.0)(feeds)

        return note_call

    monkeypatch.setattr(precision_search, "perf_counter", lambda: now)
    assert precision_search.measure_slowdown(course, taking("int8", 2.0), taking("other", 3.0), 5) == pytest.approx(1.5)
    assert calls.count("int8") == calls.count("other") == 6
