"""What is tried, what is kept of it, and why."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration import options as verb
from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.choosing import trials
from fewstep.calibration.choosing.evidence import Tried, Way
from fewstep.calibration.choosing.trials import most_evaluations
from fewstep.evaluation.contents import InspectOptions, inspect
from fewstep.evaluation.report.operations import BY_TRIAL
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.graph.pack import PackOptions, pack
from fewstep.lowering.bodies import ranges_files
from fewstep.lowering.scheme import Target
from fewstep.machine import cache
from fewstep.plans.errors import UserError
from fewstep.ranges.table import load as load_table
from fewstep.rollouts.closed_loop import JUDGE_SEEDS, SEARCH_SEEDS, SELECTION_SEEDS, Course
from fewstep.rollouts.on_demand import OnDemand
from fewstep.rollouts.trajectories import HELD_OUT_SEEDS
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler
from tests.calibration.test_calibrate import FIRST, denoiser, table_of, write_bundle

PLANTED = 0.05  # by which the int8 body's output is too small
REAL = trials.open_lowered
OPTIONS = replace(FIRST, target=("cpu-x86",), trajectories=16, ranges="channels", bias="measured")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())


def run(bundle: Path, **changes: object) -> Calibration:
    return calibrate(replace(OPTIONS, bundle=bundle, **changes))  # type: ignore[arg-type]


def tried_of(made: Calibration, name: str = "int8-cpu-x86") -> tuple[Trial, ...]:
    return made.manifest.bodies[name].trials


def ways(found: Sequence[Trial]) -> list[tuple[str, bool]]:
    return [(each.ranges, each.has_bias) for each in found]


def plant(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    """Every int8 body makes outputs that are too small by a number."""

    def opened(graph: Graph, target: Target) -> LoadedGraph:
        network = REAL(graph, target)
        return lambda feeds: {"v": network(feeds)["v"] - np.float32(error)}

    monkeypatch.setattr(trials, "open_lowered", opened)


def the_wrong_way(course: object, network: object, axis: int, groups: int) -> NDArray[np.float64]:
    """In the place of a measured mean error: as large, and with the other sign."""
    return np.full((groups, 1), -PLANTED)


def stored_bias(bundle: Path) -> NDArray[np.float32]:
    opened = open_bundle(bundle)
    graph = io.load(opened.graph(opened.manifest.bodies["int8-cpu-x86"].graph), root=bundle)
    return graph.constants["output_bias"]


def test_a_planted_error_is_found_taken_out_and_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = trials.mean_error
    found = []

    def without_planting(course, network, *more):  # type: ignore[no-untyped-def]
        found.append(
            (
                own(course, lambda feeds: {"v": network(feeds)["v"] + np.float32(PLANTED)}, *more),
                own(course, network, *more),
            )
        )
        return found[-1][1]

    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "mean_error", without_planting)
    made = run(bundle)
    honest, measured = np.mean(found, axis=0)  # of the halves
    np.testing.assert_allclose(measured - honest, PLANTED, atol=1e-3)
    off, on = tried_of(made)
    assert ways([off, on]) == [("channels", False), ("channels", True)] and (off.is_chosen, on.is_chosen) == (
        False,
        True,
    )
    assert off.shift > 0.5 > 0.1 > on.shift and on.psnr > off.psnr + 3
    np.testing.assert_allclose(stored_bias(bundle).reshape(measured.shape), measured, atol=1e-7)
    assert any(
        note.startswith("the mean error of the output is taken out: up to 0.05")
        for note in made.lowered["int8-cpu-x86"].notes
    )


def test_a_correction_that_does_not_win_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "mean_error", the_wrong_way)
    off, on = tried_of(run(bundle))
    assert on.has_bias and on.psnr < off.psnr and (off.is_chosen, on.is_chosen) == (True, False)
    assert on.seeds < off.seeds == trials.CHOOSING
    with pytest.raises(KeyError):
        stored_bias(bundle)


def test_a_mean_error_is_tried_whatever_is_left_of_it_in_samples(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "constant_share", lambda errors: 0.0)
    assert ways(tried_of(run(bundle))) == [("channels", False), ("channels", True)]


def test_the_planted_error_is_gone_from_samples_of_the_deployed_body(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the correction deployed in a body that has no such error, samples have it the other way round."""
    given = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0}
    exact = load(bundle).sample("ddim:3", **given)
    run(bundle, bias="none")
    plain = load(bundle, "int8").sample("ddim:3", **given)
    plant(monkeypatch, PLANTED)
    run(bundle)
    moved = load(bundle, "int8").sample("ddim:3", **given)
    assert (moved - plain).mean() == pytest.approx(PLANTED, rel=0.3)
    assert abs((plain - exact).mean()) < 0.2 * PLANTED


def test_auto_tries_methods_and_says_so(bundle: Path) -> None:
    made = run(bundle, ranges="auto", bias="none", target=("cpu-x86", "tensorrt"))
    for name in ("int8-cpu-x86", "int8-tensorrt"):
        found = tried_of(made, name)
        assert tuple(each.ranges for each in found) == trials.TRIED
        assert sum(each.is_chosen for each in found) == 1 and not any(each.has_bias for each in found)
    assert made.manifest.provenance.commands[-1].endswith("--ranges auto --bias none --groups step --seed 1000000")
    chosen = next(each for each in tried_of(made) if each.is_chosen)
    assert table_of(made).method == chosen.ranges
    assert run(bundle, ranges="auto", bias="none", target=("cpu-x86", "tensorrt")).manifest == made.manifest


def test_a_candidate_with_the_graph_of_another_is_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights have no balance to find, both methods make one graph."""
    monkeypatch.setattr("fewstep.lowering.quantize.balanced", lambda weight, *_: weight)
    made = run(bundle, ranges="auto", bias="none", target=("tensorrt",))
    assert [each.ranges for each in tried_of(made, "int8-tensorrt")] == ["channels"]


def test_a_better_method_is_deployed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one is made worse on samples, and the body has the ranges of another."""
    real, seen = trials._run, []

    def worse(way: Way, *more: object) -> Tried:
        found = real(way, *more)  # type: ignore[arg-type]
        seen.append(way.ranges)
        return replace(found, psnr=found.psnr - 20 * (way.ranges == "channels"))

    monkeypatch.setattr(trials, "_run", worse)
    made = run(bundle, ranges="auto", bias="none")
    chosen = next(each for each in tried_of(made) if each.is_chosen)
    assert seen[0] == "channels" and chosen.ranges != "channels" and table_of(made).method == chosen.ranges


def test_each_body_keeps_the_ranges_that_it_was_lowered_by(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose usual way is made worse has a table of another method; a calibration for another target leaves
    both."""
    real = trials._run

    def worse(way: Way, bias: object, networks: object, *more: object) -> Tried:
        found = real(way, bias, networks, *more)  # type: ignore[arg-type]
        return replace(found, psnr=found.psnr - 20 * (way.ranges == "channels"))

    def methods() -> dict[str, str]:
        bodies = {name: body for name, body in open_bundle(bundle).manifest.bodies.items() if body.ranges}
        return {name: load_table(bundle / str(body.ranges)).method for name, body in bodies.items()}

    run(bundle, ranges="channels", bias="none")
    usual = "channels"
    with monkeypatch.context() as patched:
        patched.setattr(trials, "_run", worse)
        run(bundle, ranges="auto", bias="none", target=("cpu-x86-7bit",))
    assert methods() == {"int8-cpu-x86": usual, "int8-cpu-x86-7bit": "channels-balanced"}
    assert len(set(ranges_files(open_bundle(bundle)))) == 2
    packed = pack(PackOptions(bundle, bundle.parent / "packed", body=("int8-cpu-x86",)))
    kept = packed.bodies["int8-cpu-x86"].ranges
    assert kept and load_table(bundle.parent / "packed" / kept).method == usual


def deeper() -> Graph:
    """One more convolution between the outer ones."""
    graph = denoiser()
    (first, relu, second, *others) = graph.nodes
    more = (replace(second, inputs=("a0", "w3"), outputs=("m0",)), replace(second, inputs=("m0", "w1")))
    weights = {**graph.constants, "w3": graph.constants["w1"][::-1].copy()}
    return replace(graph, nodes=(first, relu, *more, *others), constants=weights)


def test_thin_operations_stay_in_float_where_samples_are_better(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.calibration.calibrate.thin_convolutions", lambda prepared: ("m0",))
    made = run(write_bundle(tmp_path / "deep", deeper()), bias="none", thin="tried")
    usual, left = tried_of(made)
    assert (usual.in_float, left.in_float, left.is_chosen) == ((), ("m0",), True)
    assert left.psnr > usual.psnr
    body = made.manifest.bodies["int8-cpu-x86"]
    assert body.coverage and body.coverage.int8_ops == ("h1",) and "m0" in body.coverage.float_ops
    assert "1 thin convolution stays in float" in made.lowered["int8-cpu-x86"].notes
    assert made.manifest.provenance.commands[-1].endswith(" --thin tried --bias none --groups step --seed 1000000")
    contents = inspect(InspectOptions(tmp_path / "deep")).bodies["int8-cpu-x86"]
    assert {each.name: each.reason for each in contents.multiplying}["m0"] == BY_TRIAL
    real = trials._run

    def worse(way: Way, *more: object) -> Tried:
        found = real(way, *more)  # type: ignore[arg-type]
        return replace(found, psnr=found.psnr - 20 * bool(way.in_float))

    monkeypatch.setattr(trials, "_run", worse)
    made = run(tmp_path / "deep", bias="none", thin="tried")
    assert [each.is_chosen for each in tried_of(made)] == [True, False]
    assert made.lowered["int8-cpu-x86"].coverage.int8_ops == ("m0", "h1")


def test_one_way_is_not_tried(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "open_trials", lambda *arguments: pytest.fail("nothing to choose from"))
    assert tried_of(run(bundle, bias="auto")) == ()


def test_the_float_session_is_closed_before_each_target(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[OnDemand] = []
    was_open: list[bool] = []
    real_open, real_try = trials.open_trials, trials.try_ways

    def open_trials(sampler: Sampler, *more: object) -> tuple[Course, ...]:
        assert isinstance(sampler.denoiser, OnDemand)
        opened.append(sampler.denoiser)
        return real_open(sampler, *more)  # type: ignore[arg-type]

    def try_ways(*arguments: object) -> trials.Chosen:
        was_open.append(opened[0]._opened is not None)
        found = real_try(*arguments)  # type: ignore[arg-type]
        was_open.append(opened[0]._opened is not None)
        return found

    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "open_trials", open_trials)
    monkeypatch.setattr(trials, "try_ways", try_ways)
    run(bundle, target=("cpu-x86", "cpu-x86-7bit"))
    assert was_open == [False] * 4  # nor opened by a mean error
    assert opened[0]._opened is None


def test_a_large_body_sees_one_sample_at_a_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the samples are those of a small one."""
    sizes: list[int] = []

    def opened(graph: Graph, target: Target) -> LoadedGraph:
        network = REAL(graph, target)
        return lambda feeds: (sizes.append(len(feeds["x"])), network(feeds))[1]

    monkeypatch.setattr(trials, "open_lowered", opened)
    small = tried_of(run(bundle))
    assert set(sizes) == {trials.CHOOSING}  # the two branches of half of them
    sizes.clear()
    monkeypatch.setattr(trials, "batch_of", lambda *arguments: 1)
    large = tried_of(run(bundle))
    assert set(sizes) == {1}
    for a, b in zip(small, large, strict=True):
        assert a.psnr == pytest.approx(b.psnr, abs=0.5) and a.seeds == b.seeds


def test_a_map_keeps_the_mean_error() -> None:
    assert verb.biased_targets(replace(OPTIONS, quality="30dB", target=("cpu-x86", "tensorrt"))) == ("tensorrt",)
    assert verb.biased_targets(replace(OPTIONS, target=("cpu-x86", "tensorrt"))) == ("cpu-x86", "tensorrt")


@pytest.mark.parametrize(
    ("ranges", "bias", "is_tried"),
    [
        ("channels", "auto", False),
        ("auto", "auto", True),
        ("auto", "none", False),
        ("minmax", "measured", True),
    ],
)
def test_the_mean_error_is_measured_where_ranges_are_tried_or_on_request(
    ranges: verb.AnyMethod, bias: verb.Bias, is_tried: bool
) -> None:
    assert verb.biased_targets(replace(OPTIONS, ranges=ranges, bias=bias)) == ("cpu-x86",) * is_tried


@pytest.mark.parametrize("option", ["ranges", "bias"])
def test_another_word_is_refused(bundle: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} cannot be 'best'"):
        run(bundle, **{option: "best"})


def test_trials_come_after_what_is_kept(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it tries, it does not count again, and gives the bytes of one that was not killed."""

    class Killed(Exception):
        pass

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(trials, "try_ways", killed)
        run(bundle, ranges="auto")
    assert "int8-cpu-x86" not in open_bundle(bundle).manifest.bodies
    assert list((cache.folder() / "calibration").glob("*"))
    with monkeypatch.context() as patched:
        patched.setattr("fewstep.ranges.observe.Counts.add", killed)
        again = run(bundle, ranges="auto")
    whole = run(write_bundle(tmp_path / "other", denoiser()), ranges="auto")
    assert again.manifest.files == whole.manifest.files and tried_of(again) == tried_of(whole)


def test_what_won_is_lowered_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = []
    real = trials.lower_graph
    monkeypatch.setattr(trials, "lower_graph", lambda *given: lowered.append(given) or real(*given))
    monkeypatch.setattr("fewstep.lowering.quantize.lower_graph", lambda *given: pytest.fail("once more"))
    run(bundle, ranges="auto")
    assert len(lowered) == len(trials.TRIED)


def test_a_way_that_is_behind_on_the_first_half_gets_no_more_seeds(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "mean_error", the_wrong_way)
    off, on = tried_of(run(bundle))
    assert (off.seeds, on.seeds) == (trials.CHOOSING, trials.CHOOSING // 2)


def test_each_half_is_judged_with_the_mean_error_of_the_other(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is missing is found on the first half, all on the second: the second half of the samples is left
    with an error that the first has not. The body gets the mean."""
    taken = iter([PLANTED, PLANTED / 2])  # the second half is measured first
    judged = []
    real = trials._run

    def seen(*arguments: object) -> Tried:
        judged.append(real(*arguments))  # type: ignore[arg-type]
        return judged[-1]

    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "mean_error", lambda course, network, axis, groups: np.full((groups, 1), next(taken)))
    monkeypatch.setattr(trials, "_run", seen)
    run(bundle)
    first, second = np.split(judged[-1].psnr, 2)
    assert first.mean() > second.mean() + 3
    np.testing.assert_allclose(stored_bias(bundle), 0.75 * PLANTED, rtol=1e-6)


def test_a_body_without_finite_samples_is_not_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, np.nan)
    with pytest.raises(UserError, match="samples in int8 for cpu-x86 are not finite"):
        run(bundle)


def test_the_budget_counts_all_that_may_run() -> None:
    assert most_evaluations(3, False, False, 8, 64) == 3 * 8 * trials.CHOOSING
    known = 2 * trials.CHOOSING  # at the first step, of what is measured and of what is run
    assert most_evaluations(3, False, True, 8, 64) == 8 * (3 + 1 + 1) * trials.CHOOSING - known
    assert most_evaluations(1, True, True, 4, 4) == 4 * 4 * (1 + 1 + 1 + 1) - 2 * 4


def test_the_seeds_of_trials_are_nobody_elses() -> None:
    first, second = map(set, trials.halves(64))
    assert len(first) == len(second) == trials.CHOOSING / 2 and not first & second
    assert first | second <= set(SELECTION_SEEDS) - {*SEARCH_SEEDS, *JUDGE_SEEDS, *HELD_OUT_SEEDS}
    assert [len(half) for half in trials.halves(5)] == [3, 2]
    page = Path(__file__).parents[3] / "docs/quantization.md"
    assert f"seeds choose, {min(first)} to {max(second)}." in page.read_text()
