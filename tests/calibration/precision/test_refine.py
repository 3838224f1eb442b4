"""The whole search on a body of six convolutions, deployed and read back."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision import refine
from fewstep.calibration.precision.bound import Bound, parse_bound
from fewstep.calibration.precision.record import FrontierPoint, PrecisionMap, decode, encode
from fewstep.calibration.precision.refine import Search
from fewstep.calibration.precision.search import Choice, JudgedQuality, Point
from fewstep.calibration.precision.search_cache import SearchCache, key
from fewstep.calibration.precision.sensitivity import Sensitivity
from fewstep.calibration.precision.variants import Variants
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.measure.rollouts.closed_loop import JUDGE_SEEDS
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.calibration.precision.faked_times import Clock
from tests.calibration.test_calibrate import SHAPE, write_bundle

pytestmark = pytest.mark.slow

WIDTH, LAYERS = 16, 4


def deep() -> Graph:
    """1 -> 16 -> ... -> 1 channels; the inner convolutions can be lowered. One of them has an outlier that costs it
    most of its levels."""
    rng = np.random.default_rng(0)
    widths = (1, *(WIDTH,) * (LAYERS + 1), 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes, last = [], "x"
    for i in range(len(weights)):
        made = "v" if i == len(weights) - 1 else f"h{i}"
        nodes.append(Node("Conv", (last, f"w{i}"), (made,), pads))
        if made != "v":
            nodes += [Node("Mul", (made, "row"), (f"m{i}",)), Node("Tanh", (f"m{i}",), (f"a{i}",))]
            last = f"a{i}"
    f32 = np.dtype(np.float32)
    inputs = (Value("x", f32, (BATCH, *SHAPE)), Value("row", f32, (BATCH, 1, 1, 1)))
    return Graph("body", inputs, (Value("v", f32, (BATCH, *SHAPE)),), tuple(nodes), weights)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("deep") / "bundle", deep())


def run(bundle: Path, **changes: object) -> Calibration:
    first = CalibrateOptions(bundle, plan="ddim:3", target=("cpu-x86",), trajectories=4)
    return calibrate(replace(first, **changes))  # type: ignore[arg-type]


def quality(bundle: Path, seeds: range = JUDGE_SEEDS) -> float:
    given = {"seeds": seeds, "condition": {"class": [seed % 2 for seed in seeds]}}
    exact, int8 = (load(bundle, each).sample("ddim:3", guidance=2.0, **given) for each in ("float32", "int8"))
    return float(psnr(int8, exact).mean())


def truth(clock: Clock, point: Point) -> float:
    """What a step takes with a point's graphs, by the clock."""
    return float(np.mean([clock.time(frozenset(clock.operations[op] for op in floats)) for floats in point.choice]))


def test_a_quality_that_all_int8_misses_is_reached_by_what_is_deployed(made: Path, clock: Clock) -> None:
    everything = run(made)
    assert len(everything.manifest.bodies["int8-cpu-x86"].graphs) == 1 and everything.manifest.precision is None
    before = quality(made)
    found = run(made, quality=f"{before + 3:.1f}dB").refined["int8-cpu-x86"]
    assert found.sensitivity.operations == ("h1", "h2", "h3", "h4")
    assert found.int8.quality == pytest.approx(before, abs=1e-3)
    assert found.sensitivity.gains.shape == (4, 3)
    body = open_bundle(made).manifest.bodies["int8-cpu-x86"]
    assert [graph.until for graph in body.graphs[:-1]] == [body.groups[until - 1] for until, _ in found.graphs[:-1]]
    assert len(found.graphs) <= 3 and found.graphs[-1][0] == 3
    deployed = quality(made)
    assert deployed >= before + 2.9
    assert deployed == pytest.approx(found.point.known, abs=1e-3)  # the search measures what is deployed
    assert found.point.time == pytest.approx(truth(clock, found.point)) and found.point.time_is_measured


def test_the_map_is_kept_and_the_command_says_what_was_asked(made: Path) -> None:
    manifest = run(made, quality="45dB").manifest
    assert manifest.provenance.commands[-1].endswith("--quality 45dB")
    (kept,) = decode((made / str(manifest.precision)).read_bytes())
    assert (kept.body, kept.plan, kept.asked, len(kept.gains)) == ("int8-cpu-x86", "ddim:3", "45dB", 4)
    times = [point.time for point in kept.frontier]
    assert times == sorted(times) and kept.frontier[0].quality >= kept.all_int8 - 1e-3
    assert run(made).manifest.precision is None


def test_a_bound_out_of_reach_names_the_best_found_and_changes_nothing(made: Path) -> None:
    before = (made / "manifest.json").read_bytes()
    with pytest.raises(
        UserError, match=r"no precision map reaches 250 dB: the best found has 200\.0 dB; ask for less$"
    ):
        run(made, quality="250dB")  # of all in float, which is as good as it gets
    with pytest.raises(UserError, match="no precision map is 900 times as fast as float32"):
        run(made, speed="900x")
    assert (made / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"quality": "good"}, "quality 'good' is no bound; write it with its unit, as 44dB"),
        ({"quality": "44"}, "quality '44' is no bound; write it with its unit, as 44dB"),
        ({"speed": "-1"}, "speed '-1' is no bound; write it with its unit, as 1.5x"),
        ({"quality": "44", "speed": "2"}, "give one"),
        ({"quality": "44dB", "target": ("tensorrt",)}, "a precision map for tensorrt: it is measured where"),
    ],
)
def test_bounds_that_make_no_sense_are_named(made: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(made, **asked)


def test_bounds_in_words() -> None:
    assert parse_bound("44.5 dB", None) == Bound(quality=44.5)
    assert parse_bound(None, "1.5X") == Bound(speed=1.5)
    assert parse_bound(None, None) is None


def test_all_in_float_is_the_float_body_and_is_said(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Enough asked for, all steps leave int8 altogether; such a graph takes no range group."""
    found = run(made, quality="80dB").refined["int8-cpu-x86"]
    assert found.point.choice == (frozenset(range(LAYERS)),) * 3
    body = open_bundle(made).manifest.bodies["int8-cpu-x86"]
    assert (len(body.graphs), body.groups) == (1, ())
    assert quality(made) == found.point.quality == 200.0  # the ceiling: equal
    assert "int8-cpu-x86 runs nothing in int8: of all that was tried, float32 itself fits 80dB best" in caplog.text


def test_a_map_of_which_nothing_runs_in_int8_is_not_called_float32(
    made: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coverage counts what an engine runs; float32 itself is what has all operations in float."""
    real = Variants.lower

    def uncovered(variants: Variants, in_float: Collection[str]) -> LoweredBody:
        lowered = real(variants, in_float)
        return replace(lowered, coverage=msgspec.structs.replace(lowered.coverage, int8_ops=(), int8_macs=0))

    monkeypatch.setattr(Variants, "lower", uncovered)
    assert not run(made, quality="20dB").refined["int8-cpu-x86"].is_float
    assert "runs nothing in int8" not in caplog.text


def test_float32_is_found_where_an_operation_gains_nothing(made: Path) -> None:
    """It is tried whatever the single operations win."""
    found = run(made, quality="80dB", trajectories=6).refined["int8-cpu-x86"]
    assert found.sensitivity.gains.min() <= 0
    assert found.point.choice == (frozenset(range(LAYERS)),) * 3 and found.point.quality == 200.0


def test_float32_has_the_time_that_it_was_measured_to_have(made: Path, clock: Clock) -> None:
    """Not that of its operations one by one: nothing slower is on the frontier, and its own speed is 1."""
    found = run(made, speed="1.0x").refined["int8-cpu-x86"]
    assert found.sensitivity.float_time == clock.time(frozenset(clock.operations)) == 1.24
    assert found.sensitivity.costs == pytest.approx([0.06] * LAYERS)  # each was measured to cost 0.16
    assert (found.point.quality, found.point.time, found.point.time_is_measured) == (200.0, 1.24, True)
    assert found.frontier[-1] == found.point and len(found.frontier) > 2
    assert len(clock.timed) == LAYERS + 1  # no other graph had to be


def test_a_speed_that_only_the_estimate_has_is_not_deployed(made: Path, clock: Clock) -> None:
    """The next point is taken, until one has it as measured."""
    limit = 1.24 / 1.1
    found = run(made, speed="1.1x").refined["int8-cpu-x86"]
    assert found.point.time == pytest.approx(truth(clock, found.point)) and found.point.time_is_measured
    assert 1 < found.point.time <= limit
    missed = clock.timed[LAYERS + 1 :]
    estimated = [1 + 0.06 * len(floats) for floats in missed]
    assert missed and max(map(clock.time, missed)) > limit and min(estimated) < limit
    better = [point for point in found.frontier if point.quality > found.point.quality]
    assert better and all(point.time > limit for point in better)
    for point in found.frontier:
        assert not point.time_is_measured or point.time == pytest.approx(truth(clock, point))


def test_graphs_that_were_timed_are_not_again(made: Path, clock: Clock) -> None:
    first = run(made, speed="1.12x").refined["int8-cpu-x86"]
    clock.timed.clear()
    second = run(made, speed="1.12x").refined["int8-cpu-x86"]
    assert clock.timed == [] and second.point == first.point and second.frontier == first.frontier


def test_a_map_that_is_slower_than_float32_after_all_is_not_deployed(made: Path, clock: Clock) -> None:
    clock.time = lambda floats: {0: 1.0, LAYERS: 1.24}.get(len(floats), 2.0)
    found = run(made, quality="35dB").refined["int8-cpu-x86"]
    assert found.sensitivity.quality < 35 and len(clock.timed) > LAYERS + 1  # others seemed to be faster
    assert (found.point.quality, found.point.time) == (200.0, 1.24)
    assert found.frontier[-1] == found.point


def test_where_float32_is_as_fast_nothing_beats_it(made: Path, clock: Clock) -> None:
    clock.time = lambda floats: 1 - 0.05 * len(floats)
    found = run(made, speed="0.5x").refined["int8-cpu-x86"]
    assert found.point.quality == 200.0 and found.frontier == (found.point,)
    with pytest.raises(UserError, match=r"no precision map is 2 times as fast as float32: the fastest found is 1\.00"):
        run(made, speed="2x")


@pytest.fixture
def flattered(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[str]:
    """Lets the seeds that judge take 2 dB from all but float32; grows by the key of each choice that is judged. Times
    add up, so that there are many points."""
    judged: list[str] = []
    real = refine._qualities

    def lowered(search: Search, choice: Choice, courses: Any) -> Any:
        values = real(search, choice, courses)
        if courses is search.judges:
            assert len(values) == len(JUDGE_SEEDS)
            judged.append(key(choice))
            return np.where(values == 200.0, values, values - 2.0)
        return values

    monkeypatch.setattr(refine, "_qualities", lowered)
    clock.time = lambda floats: 1 + 0.06 * len(floats)
    return judged


def test_a_quality_that_only_the_seeds_of_the_search_have_is_not_deployed(
    made: Path, flattered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next better point is taken, until one has it on others; few are judged. It is trimmed by as much as the
    search was off: trimmed to what its seeds call 35 dB, it would miss them again on others."""
    targets: list[float] = []
    real = refine.trim

    def recorded(search: Search, point: Point, quality: float) -> Point:
        targets.append(quality - point.quality + point.known)
        return real(search, point, quality)

    monkeypatch.setattr(refine, "trim", recorded)
    found = run(made, quality="35dB").refined["int8-cpu-x86"]
    point = found.point
    assert point.judged is not None and 35 <= point.known == point.judged.quality < 200
    assert quality(made) - 2 == pytest.approx(point.known, abs=1e-3)
    missed = [each for each in found.frontier if each.judged and each.known < 35 <= each.quality]
    assert missed and all(each.time < point.time for each in missed)
    assert targets == [pytest.approx(35.0)]
    assert len(flattered) == len(set(flattered)) < len(found.frontier)


def test_what_a_speed_deploys_is_judged_once_and_chosen_without_it(made: Path, flattered: list[str]) -> None:
    found = run(made, speed="1.1x").refined["int8-cpu-x86"]
    assert flattered == [key((frozenset(),) * 3), key(found.point.choice)]
    assert found.point.known == pytest.approx(quality(made) - 2, abs=1e-3) and found.point.quality > found.point.known
    (kept,) = decode((made / str(open_bundle(made).manifest.precision)).read_bytes())
    assert (kept.deployed.quality, kept.deployed.searched) == (found.point.known, found.point.quality)
    assert (kept.all_int8, kept.all_int8_error) == (found.int8.quality, found.int8.error)
    assert kept.deployed.standard_error == found.point.judged.error > 0  # type: ignore[union-attr]


def test_the_error_is_that_of_a_mean(made: Path) -> None:
    given = {"seeds": JUDGE_SEEDS, "condition": {"class": [seed % 2 for seed in JUDGE_SEEDS]}}
    found = run(made, speed="1.1x").refined["int8-cpu-x86"]
    exact, int8 = (load(made, each).sample("ddim:3", guidance=2.0, **given) for each in ("float32", "int8"))
    assert found.point.judged is not None
    assert found.point.judged.error == pytest.approx(np.std(psnr(int8, exact), ddof=1) / 8, rel=1e-2)


def test_the_file_says_which_times_are_measured(made: Path) -> None:
    found = run(made, speed="1.1x").refined["int8-cpu-x86"]
    (kept,) = decode((made / str(open_bundle(made).manifest.precision)).read_bytes())
    assert (kept.deployed.time, kept.deployed.time_is_measured) == (found.point.time, True)
    measured = {point.in_float: point.time_is_measured for point in kept.frontier}
    assert measured[((),) * 3] and measured[(tuple(range(LAYERS)),) * 3] and measured[kept.deployed.in_float]
    assert not all(measured.values())


def test_maps_of_an_earlier_version_are_read_as_estimates_and_of_a_later_one_are_not() -> None:
    point = FrontierPoint(30.0, 1.2, ((0,),), time_is_measured=True)
    current = encode((PrecisionMap("int8", "ddim:1", "1x", ("h",), ((1.0,),), (0.2,), 29.0, 1.2, (point,), point),))
    assert b'"schema":2' in current and decode(current)[0].deployed == point
    earlier = current.replace(b'"schema":2', b'"schema":1').replace(b',"time_is_measured":true', b"")
    for field in (b',"standard_error":null', b',"searched":null', b',"all_int8_error":null'):
        assert field in earlier
        earlier = earlier.replace(field, b"")
    assert earlier.count(b"measured") == 0
    assert decode(earlier)[0].deployed == FrontierPoint(30.0, 1.2, ((0,),), time_is_measured=False)
    with pytest.raises(UserError, match="schema 3, this version reads 2"):
        decode(current.replace(b'"schema":2', b'"schema":3'))


def test_trimming_takes_an_operation_out_of_all_its_groups_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dearest first; 0 may go as far as the quality tells, 1 may not."""
    tried: list[Choice] = []

    def run_faked(search: Search, choice: Choice) -> Point:
        tried.append(choice)
        return Point(choice, 40.0 if 1 in choice[1] else 20.0, 1.0)

    monkeypatch.setattr(refine, "run", run_faked)
    measured = Sensitivity(("a", "b"), np.ones((2, 3)), np.array([0.3, 0.2]), 20.0, 1.5)
    course: Any = SimpleNamespace(groups=3, shares=np.full(3, 1 / 3))
    variants: Any = None
    start = Point((frozenset({0, 1}), frozenset({0, 1}), frozenset()), 50.0, 1.3)
    found = refine.trim(Search(variants, course, (), measured, SearchCache()), start, 40.0)
    only = (frozenset({1}), frozenset({1}), frozenset())
    assert tried == [only, (frozenset(),) * 3] and found.choice == only


def test_a_trimmed_map_that_misses_the_bound_is_trimmed_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only candidate missed, so that float32 was left, which tells nothing of how much the search flatters."""
    kept, everything = SearchCache(), frozenset(range(8))

    def run_faked(search: Search, choice: Choice) -> Point:
        found = 200.0 if choice[0] == everything else 30.0 + 2 * len(choice[0])
        return Point(choice, found, 1 + 0.05 * len(choice[0]), True, search.kept.figures.judged.get(key(choice)))

    def judged(search: Search, choice: Choice) -> JudgedQuality:
        found = run_faked(search, choice).quality
        return search.kept.figures.judged.setdefault(key(choice), JudgedQuality(found - 2.0 * (found < 200), 0.1))

    for name, faked in (
        ("run", run_faked),
        ("judge", judged),
        ("time_whole", lambda *of: run_faked(of[0], of[1].choice)),
    ):
        monkeypatch.setattr(refine, name, faked)
    names = tuple("abcdefgh")
    measured = Sensitivity(names, np.ones((8, 1)), np.full(8, 0.05), 30.0, 1.4)
    course: Any = SimpleNamespace(groups=1, shares=np.ones(1))
    variants: Any = None
    search = Search(variants, course, (), measured, kept)
    points = [run_faked(search, (floats,)) for floats in (frozenset(), frozenset({1, 2, 3, 4, 5, 6}), everything)]
    wanted, points = refine.settle(search, points, Bound(quality=42.0))
    assert wanted.choice == (everything,)
    wanted, points = refine.settle_trimmed(search, wanted, points, 42.0)
    assert (len(wanted.choice[0]), wanted.known) == (7, 42.0)


def test_the_fastest_found_is_one_that_was_timed() -> None:
    measured = Sensitivity((), np.ones((0, 1)), np.ones(0), 20.0, 1.5)
    points = [Point((), 30.0, 0.5), Point((), 20.0, 1.0, time_is_measured=True)]
    assert refine._unreached(Bound(speed=2.0), points, measured).endswith("the fastest found is 1.50 times")


def test_progress_counts_the_items_of_each_part_and_names_the_target(made: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = CalibrateOptions(made, plan="ddim:3", target=("cpu-x86", "cpu-x86-7bit"), trajectories=4, quality="36dB")
    calibrate(options, lambda *each: told.append(each))
    float32 = [each for each in told if each[0] == "precision map: steps of float32"]
    assert [(done, total) for _, done, total in float32] == [(1 + step, 15) for step in range(15)]  # of five courses
    for target in ("cpu-x86", "cpu-x86-7bit"):
        parts = [each for each in told if each[0].startswith(f"precision map of {target}:")]
        names = [name.rpartition(": ")[2] for name in dict.fromkeys(name for name, _, _ in parts)]
        assert names == ["sensitivity", "times of operations", "frontier", "timing and judging", "refinement"]
        for part in names[:2]:
            done = [done for name, done, total in parts if name.endswith(part) and total == LAYERS]
            assert done == [*range(LAYERS + 1)]
        for name in dict.fromkeys(name for name, _, _ in parts):
            last = [(done, total) for found, done, total in parts if found == name][-1]
            assert last[0] == last[1]
