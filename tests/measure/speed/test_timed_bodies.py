"""Racing the bodies of a tiny bundle: the contenders, and the refusals."""

from functools import partial

import msgspec
import numpy as np
import pytest

from fewstep.graph.files.commit import open_for_update
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.speed import timed_bodies
from fewstep.measure.speed.mean_step import middle_feeds
from fewstep.measure.speed.race import Race, Timing, Turns
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.report.options import ReportOptions
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from tests.described_cpu import describe_cpu
from tests.report.judged_bundle import add_earlier, make_bundle
from tests.runtime.sampling.test_fitted_plans import give

QUICK = {"batches": (1,), "rounds": 1, "turn_seconds": 0.001, "threads": 1}


def note_race(raced, contenders, *_, **how):
    """Record the contenders without measuring times."""
    raced.extend(contenders)
    return Race(2, 1, 1, tuple(Timing(contender.name, *[1.0] * 4, 1, *[1.0] * 3, 0, 0) for contender in contenders))


def test_a_body_with_stages_is_one_contender_whose_mean_step_is_timed(tmp_path, monkeypatch):
    path = make_bundle(tmp_path / "tiny")
    add_earlier(path, until=1)
    raced = []

    monkeypatch.setattr(timed_bodies, "run_race", partial(note_race, raced))
    found = measure(MeasureOptions(path, columns=("ms",), **QUICK))
    graphs = {each.name: [(sorted(graph.feeds), graph.steps) for graph in each.graphs] for each in raced}
    assert graphs == {"float32": [(["row", "x"], 1)], "int8-cpu-x86": [(["row", "x"], 1), (["group", "row", "x"], 3)]}
    assert any("several graphs run the steps" in note for note in found.notes)


def test_each_body_is_fed_along_the_plan_that_was_fitted_to_it(tmp_path, monkeypatch):
    path, raced = make_bundle(tmp_path / "tiny"), []
    with open_for_update(path, must_exist=True) as writer:
        manifest = open_bundle(path).manifest
        arm = msgspec.structs.replace(manifest.bodies["int8-cpu-x86"], target="cpu-arm")
        writer.commit(msgspec.structs.replace(manifest, bodies={**manifest.bodies, "int8-cpu-arm": arm}))
    give(path, body="int8-cpu-x86", numbers="ddim:3")
    give(path, body="int8-cpu-arm")

    monkeypatch.setattr(timed_bodies, "run_race", partial(note_race, raced))
    measure(MeasureOptions(path, columns=("ms",), plan="fitted:3", **QUICK))
    fed = {contender.name: contender.graphs[0].feeds["x"] for contender in raced}
    for body, plan in (("float32", "ddim:3"), ("int8-cpu-x86", "ddim:3"), ("int8-cpu-arm", "dpmpp_2m:3")):
        with load(path, body=body) as sampler:
            expected = middle_feeds(sampler, sampler.compile(plan, 2.0), 1)[DENOISER]
        np.testing.assert_array_equal(fed[body], expected["x"])


def test_the_time_of_turns_has_starts_profiles_and_long_calls(tmp_path):
    """Turns of 0.5 s of two bodies. Calls of 0.1 s take 0.1 + 0.5 s with the one before them, and those of eight
    samples 0.8 + 0.8 s. A process starts in 2 * 0.5 s, and a profile takes ten calls."""
    plan = load(make_bundle(tmp_path / "tiny")).compile("ddim:2")
    timed = timed_bodies.TimedBodies(("float32", "int8"), (), {"float32": plan, "int8": plan}, Turns((1, 8), 7, 0.5))
    turns, starts, profiles = 2 * 7 * (0.6 + 1.6), 2 * 2 * 2 * 0.5, 2 * 10 * 0.1
    assert timed.estimate_seconds(0.1, 2.0) == pytest.approx(turns + starts + profiles)
    assert timed.estimate_seconds(0.0, 1.0) == pytest.approx(2 * 7 * 2 * (timed_bodies.WARM_UP + 0.5) + 2 * 2 * 0.5)


def test_graphs_are_really_run(tmp_path):
    path = make_bundle(tmp_path / "tiny")
    add_earlier(path)
    (race,) = measure(MeasureOptions(path, columns=("ms",), **QUICK)).races
    assert [timing.name for timing in race.timings] == ["float32", "int8-cpu-x86"] and race.batch == 2
    assert race.timings[0].ratio == 1 and all(timing.median > 0 for timing in race.timings)


def test_a_backend_that_has_nothing_to_run_is_named(tmp_path):
    path = make_bundle(tmp_path / "tiny")
    found = measure(MeasureOptions(path, columns=("ms",), backend=("onnxruntime-cuda",), **QUICK))
    assert found.notes[-1] == "onnxruntime-cuda: nothing to time, the bundle has no body for it"


def test_a_body_with_8_bit_weights_is_timed_with_the_sums_that_it_is_deployed_with(tmp_path, monkeypatch):
    """Without VNNI these are slower, and a note says so."""
    path, raced = make_bundle(tmp_path / "tiny"), []
    monkeypatch.setattr(timed_bodies, "run_race", partial(note_race, raced))
    describe_cpu(monkeypatch, tmp_path, ("avx2",))
    results = measure(MeasureOptions(path, columns=("ms",), **QUICK))
    wide = {engine.name: [graph.wide_sums for graph in engine.graphs] for engine in raced}
    assert wide == {"float32": [False], "int8-cpu-x86": [True]}
    assert [note for note in results.notes if note.startswith("cpu-x86: without VNNI")]
    describe_cpu(monkeypatch, tmp_path, ("avx2", "avx_vnni"))
    raced.clear()
    results = measure(MeasureOptions(path, columns=("ms",), **QUICK))
    assert not any(graph.wide_sums for engine in raced for graph in engine.graphs)
    assert not [note for note in results.notes if "without VNNI" in note]


@pytest.mark.parametrize("kind", [MeasureOptions, ReportOptions])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"turn_seconds": float("nan")}, "nan s cannot be timed"),
        ({"turn_seconds": float("inf")}, "inf s cannot be timed"),
        ({"rounds": 0}, "0 rounds with turns of 0.5 s cannot be timed"),
        ({"batches": (1, 10**8)}, "--batches is 1,100000000"),
        ({"batches": ()}, "--batches is empty"),
        ({"threads": -1}, "-1 threads"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"seeds": 50_001}, "--seeds is 50001"),
        ({"seeds": 8, "teacher_seeds": 9}, "--teacher-seeds is 9"),
    ],
)
def test_seeds_and_turns_that_cannot_be_are_refused(tmp_path, kind, changes, said):
    with pytest.raises(UserError, match=said):
        kind(tmp_path, **changes)
