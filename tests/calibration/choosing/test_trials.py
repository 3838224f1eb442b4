"""What is tried, what is kept of it, and why."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.choosing import trials
from fewstep.calibration.choosing.trials import Result, most_evaluations
from fewstep.graph.graph import Graph
from fewstep.graph.pack import PackOptions, pack
from fewstep.lowering.bodies import ranges_files
from fewstep.lowering.scheme import Target
from fewstep.machine import cache
from fewstep.plans.errors import UserError
from fewstep.ranges.table import Method
from fewstep.ranges.table import load as load_table
from fewstep.rollouts.closed_loop import JUDGE_SEEDS, SEARCH_SEEDS, SELECTION_SEEDS, Course
from fewstep.rollouts.on_demand import OnDemand
from fewstep.rollouts.trajectories import HELD_OUT_SEEDS
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampler import Sampler
from tests.calibration.test_calibrate import FIRST, denoiser, table_of, write_bundle

PLANTED = 0.05  # by which the int8 body's output is too small
REAL = trials.open_lowered
OPTIONS = replace(FIRST, target=("cpu-x86",), trajectories=16)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())


def run(bundle: Path, **changes: object) -> Calibration:
    return calibrate(replace(OPTIONS, bundle=bundle, **changes))  # type: ignore[arg-type]


def tried_of(made: Calibration, name: str = "int8-cpu-x86") -> tuple[Trial, ...]:
    return made.manifest.bodies[name].trials


def plant(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    """Every int8 body makes outputs that are too small by a number."""

    def opened(graph: Graph, target: Target) -> LoadedGraph:
        network = REAL(graph, target)
        return lambda feeds: {"v": network(feeds)["v"] - np.float32(error)}

    monkeypatch.setattr(trials, "open_lowered", opened)


def test_auto_tries_methods_and_says_so(bundle: Path) -> None:
    made = run(bundle, target=("cpu-x86", "tensorrt"))
    for name in ("int8-cpu-x86", "int8-tensorrt"):
        found = tried_of(made, name)
        assert tuple(each.ranges for each in found) == trials.TRIED
        assert sum(each.is_chosen for each in found) == 1
    assert made.manifest.provenance.commands[-1].endswith("--ranges auto --groups step --seed 1000000")
    chosen = next(each for each in tried_of(made) if each.is_chosen)
    assert table_of(made).method == chosen.ranges
    assert run(bundle, target=("cpu-x86", "tensorrt")).manifest == made.manifest


def test_a_candidate_with_the_graph_of_another_is_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights have no balance to find, both methods make one graph."""
    monkeypatch.setattr("fewstep.lowering.quantize.balanced", lambda weight, *_: weight)
    made = run(bundle, target=("tensorrt",))
    assert [each.ranges for each in tried_of(made, "int8-tensorrt")] == ["channels"]


def test_a_better_method_is_deployed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one is made worse on samples, and the body has the ranges of another."""
    real, seen = trials._run, []

    def worse(method: Method, *more: object) -> Result:
        found = real(method, *more)  # type: ignore[arg-type]
        seen.append(method)
        return replace(found, psnr=found.psnr - 20 * (method == "channels"))

    monkeypatch.setattr(trials, "_run", worse)
    made = run(bundle)
    chosen = next(each for each in tried_of(made) if each.is_chosen)
    assert seen[0] == "channels" and chosen.ranges != "channels" and table_of(made).method == chosen.ranges


def test_each_body_keeps_the_ranges_that_it_was_lowered_by(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose usual way is made worse has a table of another method; a calibration for another target leaves
    both."""
    real = trials._run

    def worse(method: Method, *more: object) -> Result:
        found = real(method, *more)  # type: ignore[arg-type]
        return replace(found, psnr=found.psnr - 20 * (method == "channels"))

    def methods() -> dict[str, str]:
        bodies = {name: body for name, body in open_bundle(bundle).manifest.bodies.items() if body.ranges}
        return {name: load_table(bundle / str(body.ranges)).method for name, body in bodies.items()}

    run(bundle, ranges="channels")
    usual = "channels"
    with monkeypatch.context() as patched:
        patched.setattr(trials, "_run", worse)
        run(bundle, target=("cpu-x86-7bit",))
    assert methods() == {"int8-cpu-x86": usual, "int8-cpu-x86-7bit": "channels-balanced"}
    assert len(set(ranges_files(open_bundle(bundle)))) == 2
    packed = pack(PackOptions(bundle, bundle.parent / "packed", body=("int8-cpu-x86",)))
    kept = packed.bodies["int8-cpu-x86"].ranges
    assert kept and load_table(bundle.parent / "packed" / kept).method == usual


def test_one_way_is_not_tried(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "open_trials", lambda *arguments: pytest.fail("nothing to choose from"))
    assert tried_of(run(bundle, ranges="channels")) == ()


def test_the_float_session_is_closed_before_each_target(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[OnDemand] = []
    was_open: list[bool] = []
    real_open, real_try = trials.open_trials, trials.try_methods

    def open_trials(sampler: Sampler, *more: object) -> tuple[Course, ...]:
        assert isinstance(sampler.denoiser, OnDemand)
        opened.append(sampler.denoiser)
        return real_open(sampler, *more)  # type: ignore[arg-type]

    def try_methods(*arguments: object) -> trials.Chosen:
        was_open.append(opened[0]._opened is not None)
        found = real_try(*arguments)  # type: ignore[arg-type]
        was_open.append(opened[0]._opened is not None)
        return found

    plant(monkeypatch, PLANTED)
    monkeypatch.setattr(trials, "open_trials", open_trials)
    monkeypatch.setattr(trials, "try_methods", try_methods)
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


def test_trials_come_after_what_is_kept(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it tries, it does not count again, and gives the bytes of one that was not killed."""

    class Killed(Exception):
        pass

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(trials, "try_methods", killed)
        run(bundle)
    assert "int8-cpu-x86" not in open_bundle(bundle).manifest.bodies
    assert list((cache.folder() / "calibration").glob("*"))
    with monkeypatch.context() as patched:
        patched.setattr("fewstep.ranges.observe.Counts.add", killed)
        again = run(bundle)
    whole = run(write_bundle(tmp_path / "other", denoiser()))
    assert again.manifest.files == whole.manifest.files and tried_of(again) == tried_of(whole)


def test_what_won_is_lowered_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = []
    real = trials.lower_graph
    monkeypatch.setattr(trials, "lower_graph", lambda *given, **more: lowered.append(given) or real(*given, **more))
    monkeypatch.setattr("fewstep.lowering.quantize.lower_graph", lambda *given: pytest.fail("once more"))
    run(bundle)
    assert len(lowered) == len(trials.TRIED)


def test_a_way_that_is_behind_on_the_first_half_gets_no_more_seeds(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = REAL, []

    def worse(graph: Graph, target: Target) -> LoadedGraph:
        opened.append(real(graph, target))
        error, network = PLANTED * (len(opened) > 1), opened[-1]
        return lambda feeds: {"v": network(feeds)["v"] - np.float32(error)}

    monkeypatch.setattr(trials, "open_lowered", worse)
    first, second = tried_of(run(bundle))
    assert (first.seeds, second.seeds) == (trials.CHOOSING, trials.CHOOSING // 2)
    assert first.is_chosen and first.psnr > second.psnr + 3


def test_a_body_without_finite_samples_is_not_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, np.nan)
    with pytest.raises(UserError, match="samples in int8 for cpu-x86 are not finite"):
        run(bundle)


def test_the_budget_counts_all_that_may_run() -> None:
    assert most_evaluations(3, 8, 64) == 3 * 8 * trials.CHOOSING
    assert most_evaluations(2, 4, 5) == 2 * 4 * 5


def test_the_seeds_of_trials_are_nobody_elses() -> None:
    first, second = map(set, trials.halves(64))
    assert len(first) == len(second) == trials.CHOOSING / 2 and not first & second
    assert first | second <= set(SELECTION_SEEDS) - {*SEARCH_SEEDS, *JUDGE_SEEDS, *HELD_OUT_SEEDS}
    assert [len(half) for half in trials.halves(5)] == [3, 2]
    page = Path(__file__).parents[3] / "docs/quantization.md"
    assert f"seeds choose, {min(first)} to {max(second)}." in page.read_text()
