"""The deployed body under a bound, for given qualities and times, and for a body of six convolutions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log2
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision import precision_search as module
from fewstep.calibration.precision.bound import Bound, parse_bound
from fewstep.calibration.precision.precision_map import FrontierPoint, PrecisionMap, decode_maps, encode_maps
from fewstep.calibration.precision.precision_search import (
    SearchResult,
    estimate_evaluations,
    find_crossing,
    search_precision,
)
from fewstep.calibration.precision.recipe import Recipe
from fewstep.cli.describe.calibration import describe_search
from fewstep.measure.rollouts.metrics import CEILING, psnr
from fewstep.measure.rollouts.seeds import JUDGE_SEEDS
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.calibration.precision.deep_body import LAYERS, deep, run
from tests.calibration.precision.test_ranking import ranking
from tests.calibration.test_calibrate import write_bundle
from tests.exact_int8 import EXACT_BODY, EXACT_TARGET
from tests.refusals import refuses

OPERATIONS = 40
FLATTERED = 2.0  # dB by which the seeds that search are above those that judge
BODY = EXACT_BODY


@dataclass
class Faked:
    """A search whose bodies have these qualities on the search's seeds, and these times, by the number of operations in
    float. `judged` and `timed` list the numbers that were tried, in order.
    """

    quality: Callable[[int], float] = lambda count: 30.0 + 0.5 * count
    time: Callable[[int], float] = lambda count: 1 + 0.01 * count
    is_timed: bool = True

    def __post_init__(self) -> None:
        self.judged: list[int] = []
        self.timed: list[int] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def values(search: module.Search, count: int, course: Any) -> NDArray[np.float64]:
            if course == "judges":
                self.judged.append(count)
            found = CEILING if count == search.all else self.quality(count) - FLATTERED * (course == "judges")
            return np.array([found - 0.5, found + 0.5]) if count < search.all else np.full(2, found)

        def slowdown(course: Any, base: int, other: int, rounds: int) -> float:
            self.timed.append(other)
            return self.time(other) / self.time(base)

        monkeypatch.setattr(module.Search, "_run", values)
        monkeypatch.setattr(module.Search, "_open_body", lambda _, count: count)
        monkeypatch.setattr(module, "measure_slowdown", slowdown)

    def found(self, bound: Bound, without: int = 0) -> SearchResult:
        rank = replace(
            ranking((1e-4,) * 4, (0.1,) * 4),
            operations=tuple(f"op{number}" for number in range(OPERATIONS)),
            order=tuple(range(OPERATIONS)),
            left=np.linspace(1e-3, 0, OPERATIONS + 1),
            time=np.linspace(0, 0.5, OPERATIONS + 1),
        )
        target: Any = load_target("cpu-x86")
        table: Any = SimpleNamespace(unseen=())
        recipe = Recipe(deep(), table, target, (), in_float=rank.first_operations(without), ranking=rank)
        courses: Any = "search", ("judges",)
        return search_precision(recipe, *courses, bound, self.is_timed)


@pytest.fixture
def fake_search(monkeypatch: pytest.MonkeyPatch) -> Faked:
    made = Faked()
    made.install(monkeypatch)
    return made


@pytest.mark.parametrize("wanted", [30.4, 31.0, 44.5, 49.9])
@pytest.mark.parametrize("off", [0.0, 8.0, -8.0, 100.0])
def test_a_crossing_is_found_in_few_looks_whatever_is_foretold(wanted: float, off: float) -> None:
    values = 30 + 0.5 * np.arange(OPERATIONS + 1)
    looks: list[int] = []

    def value(count: int) -> float:
        looks.append(count)
        return float(values[count])

    foretold = values + off * np.linspace(0, 1, len(values))
    assert find_crossing(value, foretold, wanted, 0, OPERATIONS) == np.flatnonzero(values >= wanted)[0]
    assert len(looks) == len(set(looks)) <= 2 * ceil(log2(OPERATIONS)) + 1


def test_a_quality_has_the_fewest_operations_in_float_that_reach_it_on_other_seeds(fake_search: Faked) -> None:
    """40 dB on the search's seeds are 38 dB on the judging ones. Few bodies are judged."""
    found = fake_search.found(Bound(quality=40.0))
    assert (found.point.count, found.point.quality, found.judged.mean) == (24, 42.0, 40.0)
    assert found.recipe.in_float == tuple(f"op{number}" for number in range(24))
    assert found.point.time == pytest.approx(1.24) and found.point.time_is_measured
    assert found.judged.standard_error == pytest.approx(0.5)
    assert found.unbounded.mean == 28.0 and found.float_time == pytest.approx(1.4)
    assert set(fake_search.judged) == {20, 24, 0} and len(fake_search.judged) == 3
    assert [point.count for point in found.points] == sorted(point.count for point in found.points)
    assert len(found.points) < 14


def test_a_quality_that_the_default_has_needs_less_in_float(fake_search: Faked) -> None:
    """Without a bound its operations in float were worth their time; with one they are not needed."""
    found = fake_search.found(Bound(quality=30.0), without=10)
    assert (found.point.count, found.unbounded.mean) == (4, 33.0)
    assert found.point.time == pytest.approx(1.04 / 1.10) and found.float_time == pytest.approx(1.4 / 1.1)
    assert found.unbounded_count == 10


@pytest.mark.parametrize(
    ("without", "ending"), [(3, "speed"), (4, "speed"), (5, "speed, with more operations in float")]
)
def test_a_body_without_a_bound_that_has_more_in_float_is_named(fake_search: Faked, without: int, ending: str) -> None:
    """The deployed body has 4."""
    found = replace(fake_search.found(Bound(quality=30.0), without=10), unbounded_count=without)
    assert found.point.count == 4 and describe_search(found, True).endswith(ending)


def test_the_default_is_deployed_where_it_is_as_fast_as_what_reaches_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times below the default's are estimated, and int8 may gain nothing there."""
    flat = Faked(time=lambda count: 1 + 0.01 * max(count, 10))
    flat.install(monkeypatch)
    found = flat.found(Bound(quality=30.0), without=10)
    assert (found.point.count, found.judged.mean, found.point.time) == (10, 33.0, 1.0)


def test_float32_is_deployed_where_nothing_else_has_the_quality(fake_search: Faked) -> None:
    found = fake_search.found(Bound(quality=60.0))
    assert (found.point.count, found.judged.mean, found.point.time) == (OPERATIONS, CEILING, pytest.approx(1.4))


@pytest.mark.parametrize("time", [lambda count: 1 - 0.002 * count, lambda count: 1 + 0.3 * (0 < count < OPERATIONS)])
def test_a_body_that_is_no_faster_than_float32_is_not_deployed(
    fake_search: Faked, time: Callable[[int], float]
) -> None:
    fake_search.time = time
    assert fake_search.found(Bound(quality=40.0)).point.count == OPERATIONS


def test_more_than_float32_has_is_refused(fake_search: Faked) -> None:
    with refuses("250 dB", "choose a lower quality"):
        fake_search.found(Bound(quality=250.0))


@pytest.mark.parametrize(("speed", "count"), [(1.4, 0), (1.25, 12), (1.1, 27), (1.0, OPERATIONS), (0.5, OPERATIONS)])
def test_a_speed_has_the_most_operations_in_float_that_keep_it(fake_search: Faked, speed: float, count: int) -> None:
    """By measured times: by multiply-accumulates a step with all operations in float takes 1.5. The deployed body is
    judged once.
    """
    found = fake_search.found(Bound(speed=speed))
    assert (found.point.count, found.point.time) == (count, pytest.approx(1 + 0.01 * count))
    assert found.float_time / found.point.time >= speed - 1e-9
    assert sorted(fake_search.judged) == sorted({0, count})
    assert len(fake_search.timed) == len(set(fake_search.timed)) <= 13


def test_a_speed_out_of_reach_names_the_fastest_found(fake_search: Faked) -> None:
    with refuses(("no body is 1.5 times", "fastest found is 1.40 times")):
        fake_search.found(Bound(speed=1.5))


def test_times_of_a_target_that_is_not_timed_here_are_estimates(fake_search: Faked) -> None:
    fake_search.is_timed = False
    found = fake_search.found(Bound(quality=40.0))
    assert fake_search.timed == [] and not found.point.time_is_measured
    assert (found.point.time, found.float_time) == (pytest.approx(1 + 0.5 * 24 / OPERATIONS), pytest.approx(1.5))


def test_evaluations_are_counted_before() -> None:
    """Float32 on 16 seeds and on 64; eight tries; two bodies and the last try on 64."""
    assert estimate_evaluations(10, 120, 4, is_timed=False) == 10 * (5 + 8 + 12)
    assert estimate_evaluations(10, 120, 4, is_timed=True) == 10 * (5 + 8 + 12) + 64


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"quality": "good"}, "quality 'good' is not a bound; write it with its unit, as 44dB"),
        ({"quality": "44"}, "quality '44' is not a bound; write it with its unit, as 44dB"),
        ({"speed": "-1"}, "speed '-1' is not a bound; write it with its unit, as 1.5x"),
        ({"quality": "44", "speed": "2"}, "give one"),
        ({"speed": "1.5x", "target": ("tensorrt",)}, "--speed for tensorrt: times can only be measured"),
    ],
)
def test_bounds_that_make_no_sense_are_named(tmp_path: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, **asked)


def test_bounds_in_words() -> None:
    assert parse_bound("44.5 dB", None) == Bound(quality=44.5)
    assert parse_bound(None, "1.5X") == Bound(speed=1.5)
    assert parse_bound(None, None) is None


def test_maps_of_earlier_versions_are_read_and_of_later_ones_are_not() -> None:
    point = FrontierPoint(30.0, 1.2, ((0,), ()), time_is_measured=True)
    gains = ((1.0, 0.5),)
    current = encode_maps((PrecisionMap("int8", "ddim:1", "1x", ("h",), gains, (0.2,), 29.0, 1.2, (point,), point),))
    assert b'"schema":3' in current and decode_maps(current)[0].deployed == point
    earlier = current.replace(b'"schema":3', b'"schema":1').replace(b',"time_is_measured":true', b"")
    for field in (b',"standard_error":null', b',"searched":null', b',"all_int8_error":null'):
        assert field in earlier
        earlier = earlier.replace(field, b"")
    assert decode_maps(earlier)[0].deployed == FrontierPoint(30.0, 1.2, ((0,), ()), time_is_measured=False)
    assert decode_maps(current.replace(b'"schema":3', b'"schema":2')) == decode_maps(current)
    with refuses(("schema 4", "reads 3")):
        decode_maps(current.replace(b'"schema":3', b'"schema":4'))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("deep") / "bundle", deep())


@pytest.fixture
def constant_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation in float adds 6 % of a body's time to a step, so that no real time decides."""
    monkeypatch.setattr(module.Search, "_open_body", lambda _, count: 1 + 0.06 * count)
    monkeypatch.setattr(module, "measure_slowdown", lambda course, base, other, rounds: other / base)


def quality_of_deployment(bundle: Path) -> NDArray[np.float64]:
    """Return the PSNR in dB of each judging seed's sample, with the bundle's int8 body as it is loaded."""
    given = {"seeds": JUDGE_SEEDS, "condition": {"class": [seed % 2 for seed in JUDGE_SEEDS]}}
    exact, int8 = (load(bundle, precision).sample("ddim:3", guidance=2.0, **given) for precision in ("float32", "int8"))
    return psnr(int8, exact)


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_what_is_deployed_is_what_was_judged(made: Path) -> None:
    calibration = run(made, quality="35dB")
    found = calibration.searches[BODY]
    assert found.unbounded.mean < 35 <= found.judged.mean < 100
    assert (found.point.count, found.recipe.in_float) == (1, ("h1",))
    values = quality_of_deployment(made)
    assert found.judged.mean == pytest.approx(values.mean(), abs=1e-3)
    assert found.judged.standard_error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5, rel=1e-2)
    body = open_bundle(made).manifest.bodies[BODY]
    assert (len(body.graphs), len(body.groups)) == (1, 2) and body.trials[0].in_float == ("h1",)
    coverage = body.graph.coverage
    assert coverage is not None and coverage.float_ops == calibration.lowered[BODY].coverage.float_ops


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_the_map_is_kept_with_what_was_foretold_and_measured(made: Path) -> None:
    calibration = run(made, speed="1.1x")
    found, manifest = calibration.searches[BODY], calibration.manifest
    assert manifest.provenance.commands[-1].endswith("--speed 1.1x")
    (kept,) = decode_maps((made / str(manifest.precision)).read_bytes())
    assert (kept.body, kept.plan, kept.asked, kept.operations) == (BODY, "ddim:3", "1.1x", ("h1", "h2", "h3", "h4"))
    assert kept.gains[0][0] == pytest.approx(float(np.diff(found.recipe.ranking.quality)[0]))  # type: ignore[union-attr]
    assert (kept.deployed.quality, kept.deployed.searched) == (found.judged.mean, found.point.quality)
    assert (kept.all_int8, kept.all_int8_error) == (found.unbounded.mean, found.unbounded.standard_error)
    assert kept.deployed.in_float == ((0, 1),) and kept.float_time == pytest.approx(1.24)
    times = [point.time for point in kept.frontier]
    assert times == sorted(times) and kept.deployed in kept.frontier
    assert run(made).manifest.precision is None


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_all_in_float_is_the_float_body_and_is_said(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such a graph has no range groups."""
    found = run(made, quality="80dB").searches[BODY]
    assert found.point.count == LAYERS and found.recipe.is_float
    body = open_bundle(made).manifest.bodies[BODY]
    assert (len(body.graphs), body.groups) == (1, ())
    assert (quality_of_deployment(made) == CEILING).all()
    assert f"{BODY} runs nothing in int8: float32 itself meets 80dB best" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_a_quality_holds_for_engines_that_are_not_here(made: Path) -> None:
    """This machine rounds for them, and their times are estimates."""
    found = run(made, target=("tensorrt",), quality="40dB").searches["int8-tensorrt"]
    assert found.unbounded.mean < 40 <= found.judged.mean and not found.point.time_is_measured
    (trial,) = open_bundle(made).manifest.bodies["int8-tensorrt"].trials
    assert trial.in_float == found.recipe.in_float != ()


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_a_bound_out_of_reach_changes_nothing(made: Path) -> None:
    before = (made / "manifest.json").read_bytes()
    with refuses("no body is 900 times"):
        run(made, speed="900x")
    assert (made / "manifest.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("constant_times")
def test_progress_names_the_target(made: Path) -> None:
    seen: list[str] = []
    options = CalibrateOptions(made, plan="ddim:3", target=(EXACT_TARGET, "tensorrt"), trajectories=4, quality="36dB")
    calibrate(options, lambda name, done, total: seen.append(name))
    named = [name for name in dict.fromkeys(seen) if name.startswith("search")]
    assert named == ["search: steps of float32", f"search for {EXACT_TARGET}: bodies", "search for tensorrt: bodies"]
