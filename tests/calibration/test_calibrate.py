"""`calibrate` on a bundle of three convolutions."""

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.ranges.read_table import load as load_table
from fewstep.calibration.task import Task
from fewstep.cli.describe.calibration import calibration_lines
from fewstep.graph.graph import BATCH, Graph
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.plan import DENOISER
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime.bundle import manifest as form
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle, node, value, write_graphs
from tests.described_cpu import describe_cpu
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

SHAPE = (1, 8, 8)
SCHEDULE = form.ScheduleSpec("cosine", timesteps=100)
FIRST = CalibrateOptions(Path("set by the test"), plan="ddim:3", target=("cpu-x86", "tensorrt"), trajectories=4)


def denoiser(scale: float = 1.0, width: int = 16) -> Graph:
    """x0 from x, without a class: 1 -> 16 -> 16 -> 1 channels. Only the middle convolution can be lowered."""
    rng, widths = np.random.default_rng(0), (1, width, width, 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) * scale / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:]))
    }
    plane, conv = "float[batch, 1, 8, 8]", "Conv<pads=[1, 1, 1, 1]>"
    text = f"""({plane} x, float[batch, 1, 1, 1] row) => ({plane} v) {{
        h0 = {conv}(x, w0) a0 = Relu(h0) h1 = {conv}(a0, w1) m1 = Mul(h1, row) a1 = Relu(m1) v = {conv}(a1, w2)
    }}"""
    return graph_of_text(text, **weights)


def prologue() -> Graph:
    """row = 1 + time / 1000 + label."""
    text = """(float[batch] time, int64[batch] label) => (float[batch, 1, 1, 1] row)
    { number = Cast<to=1>(label) part = Mul(time, thousandth) flat = Add(number, part) row = Reshape(flat, column) }"""
    return graph_of_text(text, thousandth=1e-3, column=np.array([-1, 1, 1, 1]))


def write_bundle(folder: Path, body: Graph, null: float | None = 2.0, prologue_graph: Graph | None = None) -> Path:
    return write_graphs(
        folder,
        {"body": body, "prologue": prologue_graph or prologue()},
        {"float32": {}},
        conditions=(form.Condition("class", "label", null=null, low=0, high=1),),
        prediction="sample",
        schedule=SCHEDULE,
    )


def run(bundle: Path, **changes: object) -> Calibration:
    return calibrate(replace(FIRST, bundle=bundle, **changes))  # type: ignore[arg-type]


def task_of(options: CalibrateOptions) -> Task:
    """The task of the denoiser in the bundle of the options."""
    return open_tasks(options.open(), options, check_options(options))[DENOISER]


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_a_calibrated_bundle_has_int8_bodies_ranges_and_the_plan(bundle: Path) -> None:
    made = run(bundle)
    manifest = open_bundle(bundle).manifest
    assert manifest == made.manifest
    assert set(manifest.bodies) == {"float32", "int8-cpu-x86", "int8-tensorrt"}
    body = manifest.bodies["int8-cpu-x86"]
    assert (body.precision, body.target, body.plan, len(body.groups)) == ("int8", "cpu-x86", "ddim:3", 2)
    coverage = body.graph.coverage
    assert coverage and coverage.int8_ops == ("h1",) and coverage.float_ops == ("h0", "v")
    assert coverage.int8_macs == 16 * 16 * 9 * 64
    assert manifest.ranges and load_table(bundle / manifest.ranges) == made.table
    assert set(made.table.tensors) == {"x", "h0", "a0", "h1", "a1", "v"}
    assert [step.group for step in made.plan.steps] == [0, 1, 2]
    assert (bundle / manifest.plans["ddim:3"]).read_bytes() == encode(made.plan)


def test_the_int8_body_samples_what_the_float_body_does(bundle: Path) -> None:
    run(bundle)
    given = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0}
    exact = load(bundle).sample("ddim:3", **given)
    error = load(bundle, "int8").sample("ddim:3", **given) - exact
    assert 0 < np.square(error).mean() < 1e-3 * np.square(exact).mean()


def test_the_same_calibration_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", denoiser())
    made = run(bundle).manifest
    assert made.files == run(other).manifest.files
    assert run(bundle).manifest == made


def test_pooled_ranges_need_no_groups(bundle: Path) -> None:
    made = run(bundle, groups="pooled", target=("cpu-x86",))
    body = made.manifest.bodies["int8-cpu-x86"]
    assert body.groups == () and [tensor.role for tensor in body.graph.inputs] == ["x", "row"]
    assert made.table.groups == () and len(made.table["h1"].per_group) == 1


def test_the_command_is_recorded_without_paths(bundle: Path) -> None:
    (*_, command) = run(bundle, target=("cpu-x86",)).manifest.provenance.commands
    assert command == (
        "fewstep calibrate BUNDLE --plan ddim:3 --target cpu-x86 --trajectories 4 --guidance 2"
        " --groups step --seed 1000000"
    )


def test_own_values_of_the_conditions_are_what_is_measured(bundle: Path, tmp_path: Path) -> None:
    """All trajectories have one class: the ranges differ from those of all classes, and the record has no path."""
    np.savez(tmp_path / "own.npz", **{"class": np.array([1, 1])})
    drawn, own = run(bundle), run(bundle, conditions=tmp_path / "own.npz")
    assert own.table.tensors.keys() == drawn.table.tensors.keys() and own.table != drawn.table
    assert own.manifest.provenance.commands[-1].endswith("--seed 1000000 --conditions FILE")
    with pytest.raises(UserError, match=r"there is no file .*absent\.npz"):
        run(bundle, conditions=tmp_path / "absent.npz")


def test_calibrating_again_replaces_what_was_made_before(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fewstep")
    first = run(bundle).manifest
    engine = form.EngineEntry("e.engine", "e.json", "int8-tensorrt", "tensorrt-rtx", "sm86", "key")
    empty = dict.fromkeys(("e.engine", "e.json", "report.html"), b"")
    change_bundle(bundle, empty, engines=(engine,), report="report.html")
    same = run(bundle).manifest  # makes the same bodies, so what was made from them stays
    assert (same.bodies, same.engines, same.report) == (first.bodies, (engine,), "report.html") and not caplog.messages
    second = run(bundle, plan="ddim:4", target=("tensorrt",)).manifest
    assert "previous bodies: e.engine, the report" in caplog.text
    assert set(second.plans) == {"ddim:3", "ddim:4"}
    assert second.bodies["int8-cpu-x86"] == first.bodies["int8-cpu-x86"]
    assert (second.bodies["int8-tensorrt"].plan, second.engines, second.report) == ("ddim:4", (), None)
    assert first.ranges != second.ranges == second.bodies["int8-tensorrt"].ranges
    assert (bundle / str(first.ranges)).exists()  # of the body that stays
    third = run(bundle, plan="ddim:4", target=("cpu-x86",)).manifest
    assert third.bodies["int8-cpu-x86"].ranges != first.ranges and not (bundle / str(first.ranges)).exists()


def test_a_denoiser_without_unconditional_form_is_calibrated_without_guidance(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser(), null=None)
    assert run(bundle).plan.guidance is None
    with pytest.raises(UserError, match="guidance 3.0 needs an unconditional branch"):
        run(bundle, guidance=3.0)


def test_other_numbers_of_steps_use_the_nearest_ranges(bundle: Path) -> None:
    """The groups are intervals of lambda, so each step of another plan belongs to one."""
    groups = run(bundle, plan="ddim:8", target=("cpu-x86",)).manifest.bodies["int8-cpu-x86"].groups
    given = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0}
    int8, float32 = load(bundle, "int8"), load(bundle)
    for steps in (1, 2, 5, 40):
        plan = int8.compile(f"ddim:{steps}", 2.0)
        assert {step.group for step in plan.steps} <= set(range(len(groups) + 1))
        assert [step.group for step in plan.steps] == sorted(step.group for step in plan.steps)
        exact = float32.sample(plan, **given)
        assert np.square(int8.sample(plan, **given) - exact).mean() < 1e-2 * np.square(exact).mean(), steps


def test_a_flow_without_conditions_and_prologue(tmp_path: Path) -> None:
    """Its first step has lambda -infinity, and the body takes the time itself."""
    graph = denoiser()
    shaped, row = node("Reshape", "time column", "time_column"), node("Mul", "time_column thousandth", "row")
    time = value("time", BATCH)
    constants = {**graph.constants, "column": np.array([-1, 1, 1, 1]), "thousandth": np.float32(1e-3)}
    whole = replace(graph, inputs=(graph.inputs[0], time), nodes=(shaped, row, *graph.nodes), constants=constants)
    bundle = write_graphs(
        tmp_path / "bundle", {"body": whole}, {"float32": {}}, prediction="flow", schedule=form.ScheduleSpec("flow")
    )
    made = run(bundle, plan="dpmpp_2m:4")
    assert made.plan.guidance is None and made.plan.steps[0].lam is None
    assert [step.group for step in made.plan.steps] == [0, 1, 2, 3]
    exact = load(bundle).sample("dpmpp_2m:4", range(8))
    for precision in (load(bundle, "int8"), load(bundle, body="int8-tensorrt")):
        assert 0 < np.square(precision.sample("dpmpp_2m:4", range(8)) - exact).mean() < 1e-3 * np.square(exact).mean()


def test_a_plan_file_brings_its_guidance_and_must_fit_the_schedule(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(encode(compile_plan("heun:2", DenoiserFacts(SCHEDULE, "sample"), guidance=1.5)))
    made = run(bundle, plan=str(path), target=("cpu-x86",))
    assert made.plan.guidance == Cfg(1.5) and "heun:2" in made.manifest.plans
    path.write_bytes(encode(compile_plan("heun:2", DenoiserFacts(form.ScheduleSpec("linear"), "sample"))))
    with pytest.raises(UserError, match="plan 'heun:2' is for schedule"):
        run(bundle, plan=str(path))


def test_a_dead_layer_is_a_warning_with_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = denoiser()
    constants = {**graph.constants, "w1": np.zeros_like(graph.constants["w1"])}
    bundle = write_bundle(tmp_path / "bundle", replace(graph, constants=constants))
    run(bundle)
    assert "activation 'h1' is always 0" in caplog.text


def test_figures_that_include_saturation_are_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = run(bundle)
    body = msgspec.structs.replace(result.bodies["int8-cpu-x86"], target="openvino")
    result = replace(result, bodies={**result.bodies, "int8-cpu-x86": body})
    describe_cpu(monkeypatch, tmp_path, ("avx2",))
    assert [line for line in calibration_lines(FIRST, result) if "openvino-no-vnni is exact here" in line]
    describe_cpu(monkeypatch, tmp_path, ("avx2", "avx_vnni"))
    assert not [line for line in calibration_lines(FIRST, result) if "saturation" in line]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": ("cpu-z80",)}, "unknown target 'cpu-z80'; choose from cpu-x86, cpu-x86-no-vnni, cpu-arm, tensorrt"),
        ({"plan": "dpm:8"}, "unknown solver 'dpm'"),
        ({"plan": "ddim:101"}, "101 steps on schedule cosine-100"),
        ({"plan": "missing.json"}, "there is no plan file missing.json"),
        ({"trajectories": 0}, "0 trajectories are too few; use at least 1"),
        ({"seed": 200}, "from 200 overlap those held out"),
        ({"seed": 2**64}, "exceed 64 bits"),
        ({"seed": 499_997}, "overlap those that judge bodies and precision maps; start from 1000000"),
        ({"seed": 599_999}, "overlap those that judge bodies and precision maps"),
    ],
)
def test_a_wrong_option_is_one_line_and_changes_nothing(bundle: Path, changes: dict, message: str) -> None:
    before = contents(bundle)
    with pytest.raises(UserError, match=message):
        run(bundle, **changes)
    assert contents(bundle) == before


def test_a_wrong_option_is_refused_before_anything_is_timed(bundle: Path) -> None:
    called: list[str] = []
    wrong, right = replace(FIRST, bundle=bundle, plan="ddim:3", keep_float=("nothing",)), replace(FIRST, bundle=bundle)
    with pytest.raises(UserError, match="nothing"):
        calibrate(wrong, after_checks=lambda: called.append("wrong"))
    calibrate(right, after_checks=lambda: called.append("right"))
    assert called == ["right"]


def test_a_denoiser_with_nothing_to_lower_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser(width=8))
    measured: list[str] = []
    with refuses("no operation of graph 'body' can run in int8 (3: fewer than 16 channels on one side)"):
        calibrate(replace(FIRST, bundle=bundle), lambda stage, done, total: measured.append(stage))
    assert not measured


def test_weights_that_are_nan_name_the_first_tensor_and_leave_the_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser(float("nan")))
    before = contents(bundle)
    with refuses("tensor 'h0' of the float denoiser is not finite"):
        run(bundle)
    assert contents(bundle) == before
