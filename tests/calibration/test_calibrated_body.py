"""Each body is judged by its own samples, in the closed loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration import activation_counts, body_maker, calibrated_body, sample_space
from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision import mixed_precision
from fewstep.calibration.precision.operation_errors import OperationErrors
from fewstep.calibration.precision.recipe import Recipe, open_graphs
from fewstep.calibration.ranges.methods import mse_ranges
from fewstep.calibration.ranges.read_table import load as load_table
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.sample_space import record_judging_run
from fewstep.graph.files import io
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp
from fewstep.measure.bodies import ranges_files
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.measure.rollouts.seeds import BODY_SEEDS, VERDICT_SEEDS, SeedBatch
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.figures import Figure, JudgeScore
from fewstep.runtime.bundle.manifest import Difference, Trial
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.sampling import finite_checks
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from tests.bundles import change_bundle
from tests.calibration.every_target import change_target
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle
from tests.refusals import refuses

PLANTED = 0.05  # by which the int8 body's output is too small
OPTIONS = replace(FIRST, target=("cpu-x86",), trajectories=16)


def run(bundle: Path, **changes: object) -> Calibration:
    return calibrate(replace(OPTIONS, bundle=bundle, **changes))  # type: ignore[arg-type]


def judge(calibration: Calibration | Bundle, name: str = "int8-cpu-x86") -> Trial:
    (trial,) = calibration.manifest.bodies[name].trials
    return trial


def wrap(monkeypatch: pytest.MonkeyPatch, change: Callable[[Arrays, NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """Apply `change` to the feeds and outputs of every int8 body."""

    def open_network(graph: Graph) -> LoadedGraph:
        network = CPU_X86.runs(graph)
        is_int8 = any("Quant" in node.op for node in graph.nodes)
        return (lambda feeds: {"v": change(feeds, network(feeds)["v"])}) if is_int8 else network

    change_target(monkeypatch, "cpu-x86", runs=open_network)


def plant(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    """Subtract a number from the outputs of every int8 body."""
    wrap(monkeypatch, lambda feeds, made: made - np.float32(error))


@pytest.mark.slow
def test_each_body_has_the_quality_of_its_samples(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(bundle, target=("cpu-x86", "tensorrt"))
    for name in ("int8-cpu-x86", "int8-tensorrt"):
        trial = judge(first, name)
        assert trial.ranges == "channels" and trial.seeds == OPTIONS.trajectories and 30 < trial.p5 <= trial.psnr
    assert first.manifest.provenance.commands[-1].endswith("--guidance 2 --groups step --seed 1000000")
    assert run(bundle, target=("cpu-x86", "tensorrt")).manifest == first.manifest
    plant(monkeypatch, PLANTED)
    assert judge(run(bundle)).psnr < judge(first).psnr - 3


def test_the_body_that_is_written_is_judged_on_as_many_seeds_as_trajectories(bundle: Path) -> None:
    """The 5th percentile and its range are those of its samples, as a program makes them."""
    first, more = judge(run(bundle, trajectories=4)), judge(run(bundle, trajectories=24))
    assert (first.seeds, more.seeds) == (4, 24)
    seeds = (*BODY_SEEDS, *VERDICT_SEEDS)[:24]
    batch = SeedBatch.from_manifest(open_bundle(bundle).manifest, seeds)
    with load(bundle, precision="int8") as int8, load(bundle) as float32:
        plan = int8.compile()
        samples, exact = (sampler.sample(plan, seeds, batch.conditions) for sampler in (int8, float32))
    values = psnr(samples, exact)
    assert more.psnr == pytest.approx(values.mean(), abs=0.1)
    assert more.p5 == pytest.approx(np.percentile(values, 5), abs=0.1)
    assert more.p5_range is not None and more.p5_range[0] <= more.p5 <= more.p5_range[1]


def test_a_body_with_nothing_in_int8_is_not_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If float costs no time for any operation, the default keeps all of them in float."""

    def all_slower(prepared: Graph, ops: Sequence[WeightedOp]) -> frozenset[str]:
        return frozenset(op.name for op in ops)

    change_target(monkeypatch, "cpu-x86", slower=all_slower)
    with refuses(("'body'", "for cpu-x86: each is slower")):
        run(bundle)
    assert set(open_bundle(bundle).manifest.bodies) == {"float32"}


def test_each_body_keeps_the_ranges_that_it_was_lowered_by(bundle: Path) -> None:
    """A calibration for another target, on other trajectories, does not change them."""
    first = run(bundle)
    run(bundle, target=("cpu-x86-no-vnni",), trajectories=8)
    bodies = {name: body for name, body in open_bundle(bundle).manifest.bodies.items() if body.ranges}
    tables = {name: load_table(bundle / str(body.ranges)) for name, body in bodies.items()}
    assert tables["int8-cpu-x86"] == first.table != tables["int8-cpu-x86-no-vnni"]
    assert len(set(ranges_files(open_bundle(bundle)))) == 2
    packed = pack(PackOptions(bundle, bundle.parent / "packed", body=("int8-cpu-x86",)))
    kept = packed.bodies["int8-cpu-x86"].ranges
    assert kept and load_table(bundle.parent / "packed" / kept) == first.table


def test_the_float_session_is_closed_before_each_target(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LazyGraph] = []
    was_open: list[bool] = []
    real_course, real_judged = sample_space.record_runs, body_maker.judge_body

    def open_course(sampler: Sampler, *more: object) -> tuple[RecordedRun, ...]:
        graph = sampler.network().graph
        assert isinstance(graph, LazyGraph)
        opened.append(graph)
        return real_course(sampler, *more)  # type: ignore[arg-type]

    def judge(*arguments: object) -> tuple[Trial, tuple[float, ...]]:
        was_open.append(bool(opened[0].networks))
        return real_judged(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sample_space, "record_runs", open_course)
    monkeypatch.setattr(body_maker, "judge_body", judge)
    run(bundle, target=("cpu-x86", "cpu-x86-no-vnni"))
    assert was_open == [False] * 2 and not opened[0].networks


def test_a_large_body_sees_one_sample_at_a_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples are those of a small body."""
    sizes: list[int] = []
    wrap(monkeypatch, lambda feeds, made: (sizes.append(len(feeds["x"])), made)[1])
    small = judge(run(bundle))
    assert set(sizes) == {2 * len(BODY_SEEDS)}  # two branches
    sizes.clear()
    monkeypatch.setattr("fewstep.calibration.task.MEMORY", 1)
    large = judge(run(bundle))
    assert set(sizes) == {1}
    assert large.psnr == pytest.approx(small.psnr, abs=0.5) and large.seeds == small.seeds


def test_judging_comes_after_what_is_kept(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that is killed while it judges does not count again, and gives the same bytes."""

    class Killed(Exception):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(body_maker, "judge_body", kill)
        run(bundle)
    assert "int8-cpu-x86" not in open_bundle(bundle).manifest.bodies
    assert list((cache.folder() / "calibration").glob("*"))
    with monkeypatch.context() as patched:
        patched.setattr("fewstep.calibration.ranges.observe.Counts.add", kill)
        again = run(bundle)
    whole = run(write_bundle(tmp_path / "other", denoiser()))
    assert again.manifest.files == whole.manifest.files and judge(again) == judge(whole)


def test_a_body_without_finite_samples_is_not_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, np.nan)
    with refuses("samples in int8 for cpu-x86 are not finite"):
        run(bundle)


def test_the_seeds_that_judge_are_on_the_page() -> None:
    page = Path(__file__).parents[2] / "docs/quantization.md"
    text = " ".join(page.read_text().split())
    assert f"{len(BODY_SEEDS)} seeds judge, {BODY_SEEDS[0]} to {BODY_SEEDS[-1]}, where" in text
    assert f"{len(VERDICT_SEEDS)} more, {VERDICT_SEEDS[0]} to {VERDICT_SEEDS[-1]}:" in text


def pull(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """Scale cond - uncond of the int8 body by `gain`."""

    def pull_apart(feeds: Arrays, made: NDArray[np.float32]) -> NDArray[np.float32]:
        cond, uncond = np.split(made, 2)
        return np.concatenate([uncond + np.float32(gain) * (cond - uncond), uncond])

    wrap(monkeypatch, pull_apart)


@pytest.mark.slow
def test_a_body_that_loses_what_guidance_multiplies_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other bodies are written. A body that keeps part of it stays."""
    trial = judge(run(bundle))
    assert trial.guidance is not None and trial.guidance.gain == pytest.approx(1, abs=0.02)
    assert trial.condition is not None and trial.condition.ratio > 20
    pull(monkeypatch, 0.95)
    weaker = judge(run(bundle)).guidance
    assert weaker is not None and weaker.gain == pytest.approx(0.95, abs=0.02)
    pull(monkeypatch, 0.1)
    with refuses(("cpu-x86 loses the direction of guidance", "0.10 times", "0.9 dB")):
        run(bundle)
    with refuses("int8-cpu-x86", "in the bundle: int8-tensorrt"):
        run(bundle, target=("cpu-x86", "tensorrt"))
    assert judge(open_bundle(bundle)).guidance == weaker  # of the body that was there
    assert run(bundle, quality="150dB").searches["int8-cpu-x86"].recipe.is_float  # what is deployed has it
    change_target(monkeypatch, "cpu-x86", runs=CPU_X86.runs)
    assert judge(run(bundle, guidance=1)).guidance is None  # nothing multiplies it


ENOUGH, LEAST_LOSS = POLICY.enough_psnr, POLICY.tolerated_loss


def judge_by_graphs(monkeypatch: pytest.MonkeyPatch, *psnrs: float) -> None:
    """Bodies of one, two and three graphs have these dB."""
    real = body_maker.judge_body

    def judge(recipe: Recipe, *more: Any) -> tuple[Trial, tuple[float, ...]]:
        trial, values = real(recipe, *more)
        return msgspec.structs.replace(trial, psnr=psnrs[len(recipe.parts) - 1]), values

    monkeypatch.setattr(body_maker, "judge_body", judge)
    monkeypatch.setattr(body_maker, "judge_further", lambda body, *_: body.trial)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("psnrs", "count"),
    [
        ((ENOUGH,), 1),
        ((ENOUGH - 0.1 - LEAST_LOSS, ENOUGH), 2),
        ((ENOUGH - 4, ENOUGH - 4 + LEAST_LOSS, ENOUGH - 5), 1),
        ((40.0, 41.0, 41.0 + LEAST_LOSS), 2),
        ((40.0, 41.0, 41.1 + LEAST_LOSS), 3),
    ],
)
def test_a_body_has_as_many_graphs_as_samples_need(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, psnrs: tuple[float, ...], count: int
) -> None:
    judge_by_graphs(monkeypatch, *psnrs)
    body = run(bundle, target=("tensorrt",)).manifest.bodies["int8-tensorrt"]
    assert len(body.graphs) == count and body.trials[0].psnr == psnrs[count - 1]


def test_the_number_of_graphs_is_logged_with_the_qualities_that_decide(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge_by_graphs(monkeypatch, 40.0, 41.0, 41.0)
    with caplog.at_level("INFO", "fewstep"):
        run(bundle, target=("tensorrt",))
    (line,) = [record.getMessage() for record in caplog.records if "graphs" in record.getMessage()]
    assert line.startswith("int8-tensorrt has 2 of at most 3 graphs: mean PSNR 40.0 dB with 1, 41.0 dB with 2, 41.0 dB")


@pytest.mark.parametrize("enough", [2, 3])
def test_each_graph_has_the_ranges_of_its_own_steps(bundle: Path, monkeypatch: pytest.MonkeyPatch, enough: int) -> None:
    """And one scale for all of them where a convolution reads it."""
    judge_by_graphs(monkeypatch, *(1.0,) * (enough - 1), ENOUGH)
    made = run(bundle, target=("tensorrt",))
    assert open_graphs([(1, "a"), (3, "b"), (4, "c")], SimpleNamespace(runs=str.upper)) == [*"ABBC"]
    body = made.manifest.bodies["int8-tensorrt"]
    edges = len(body.groups)
    ends = [round((edges + 1) * number / enough) for number in range(1, enough)]
    assert [graph.until for graph in body.graphs] == [*(body.groups[end - 1] for end in ends), None]
    loaded = open_bundle(bundle)
    first, last = (io.load(loaded.file(graph.file)) for graph in (body.graphs[0], body.graphs[-1]))
    scales = [name for name in first.constants if name.startswith("scale(") and first.constants[name].shape == ()]
    assert any(first.constants[name] != last.constants[name] for name in scales if name in last.constants)
    backend = OnnxRuntime(fuse_qdq=False)
    float32, int8 = (
        load(bundle, body=name, backend=backend).sample("ddim:3", range(4), {"class": [0, 1, 1, 0]}, guidance=2.0)
        for name in ("float32", "int8-tensorrt")
    )
    assert psnr(int8, float32).mean() > 25


def test_several_graphs_measure_operations_once_and_find_the_same_ranges(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranges of a group are in the table of all groups."""
    measured, parts = list[Target](), list[tuple[RangesTable, RangesTable]]()
    errors, of_part = mixed_precision.measure_operation_errors, body_maker.tabulate_part

    def count_errors(prepared: Graph, table: RangesTable, target: Target, *more: Any) -> OperationErrors:
        measured.append(target)
        return errors(prepared, table, target, *more)

    def both(*given: Any) -> RangesTable:
        with monkeypatch.context() as patched:
            patched.setattr(activation_counts, "mse_ranges", lambda *ranges: mse_ranges(*ranges[:3]))
            searched = of_part(*given)
        parts.append((of_part(*given), searched))
        return searched

    judge_by_graphs(monkeypatch, 1.0, 2.0, 3.0)
    monkeypatch.setattr(mixed_precision, "measure_operation_errors", count_errors)
    monkeypatch.setattr(body_maker, "tabulate_part", both)
    run(bundle, target=("tensorrt",))
    assert measured == [TENSORRT]
    assert len(parts) == 2 + 3  # of two graphs, and of three
    assert all(known == searched for known, searched in parts)


def test_samples_beyond_usual_data_are_in_the_trial_unless_they_are_clipped(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge(run(bundle)).beyond is None
    monkeypatch.setattr(finite_checks, "PICTURE_LIMIT", 0.5)
    assert judge(run(bundle)).beyond == pytest.approx(2.14, abs=0.01)
    assert judge(run(bundle, clip=1.0)).beyond is None


def test_a_body_far_from_float_is_refused_and_not_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = judge(run(bundle))
    assert near.snr is not None and 0 < near.psnr - near.snr < 20
    assert near.unrelated is not None and near.unrelated < near.psnr - 10
    before = open_bundle(bundle).manifest
    plant(monkeypatch, 10.0)
    with pytest.raises(UserError, match=r"at least 25 and 15 dB are required") as refused:
        run(bundle)
    assert "--quality 30" in refused.value.fix and open_bundle(bundle).manifest == before


LOST = Difference(step=4, gain=0.32, ratio=-16.2, share=0.001)


def far_body(target: str, **changes: object) -> Any:
    """A body for a target whose samples are 9.6 dB from float32's."""
    usual = {"psnr": 9.6, "snr": 22.2, "unrelated": -30.0, "in_float": ()}
    trial = {**usual, "tokens": None, "guidance": None, "reference": None, "judged": None, **changes}
    recipe = SimpleNamespace(target=load_target(target))
    return SimpleNamespace(trial=SimpleNamespace(**trial), recipe=recipe, search=None)


@pytest.mark.parametrize(("is_far", "fix"), [(False, "--quality 30dB"), (True, "--clip 2.5, the largest")])
@pytest.mark.parametrize(("guidance", "said"), [(None, "at least 25 and 15 dB"), (LOST, "loses the direction of")])
def test_the_fix_for_samples_that_leave_the_range_of_the_data_is_a_clip(
    is_far: bool, fix: str, guidance: Difference | None, said: str
) -> None:
    body = far_body("tensorrt", guidance=guidance)
    manifest: Any = SimpleNamespace(x_shape=(8, 96), autoencoder=None, units=None, data_limit=2.5)
    with pytest.raises(UserError, match=said) as refused:
        calibrated_body.check_near(body, manifest, is_far)
    assert fix in refused.value.fix
    body.trial.guidance, body.search = None, SimpleNamespace()
    calibrated_body.check_near(body, manifest, is_far)  # a bound is the caller's own limit


MISSED, KEPT = Figure("j", 0.4, 0.5, False, "scores 0.4 by j"), Figure("j", 0.6, 0.5, False, "")


@pytest.mark.parametrize("changes", [{}, {"guidance": LOST}, {"judged": JudgeScore(MISSED, KEPT, "", 8)}])
@pytest.mark.parametrize(
    ("target", "said", "fix"),
    [
        ("cpu-x86", "int8 for cpu-x86", "keep more operations in float (--quality 30dB), or "),
        ("int4-weights", "int4-weights", "take 8 bits (--target int8-weights), or "),
        ("int8-weights", "int8-weights", ""),
        ("qnn", "int8 for qnn", ""),
    ],
)
def test_the_fix_for_a_body_that_is_too_far_applies_to_its_target(
    target: str, said: str, fix: str, changes: dict[str, Any]
) -> None:
    """--quality applies neither to weights alone nor to an engine without float operations."""
    with pytest.raises(UserError) as refused:
        calibrated_body.check_near(far_body(target, **changes), SimpleNamespace(), False)  # type: ignore[arg-type]
    float32 = "use --precision float32"
    last = "calibrate along a plan without guidance at that step" if "guidance" in changes else float32
    last += "" if changes else ", or let your own measure decide (--judge)"
    assert refused.value.fix == fix + last and refused.value.what.startswith(f"{said} ")


@pytest.mark.parametrize(("limit", "clip", "is_far"), [(0.25, None, True), (0.25, 1.0, False), (1.0, None, False)])
def test_float32_is_far_where_its_own_samples_leave_the_range_of_the_data(
    bundle: Path, limit: float, clip: float | None, is_far: bool
) -> None:
    change_bundle(bundle, data_limit=limit)
    task = task_of(replace(OPTIONS, bundle=bundle, trajectories=4, clip=clip))
    assert record_judging_run(task, task.plan).is_far is is_far
