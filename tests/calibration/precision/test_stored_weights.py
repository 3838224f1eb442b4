"""Bodies whose weights alone are quantized, from a body of six products of which four can be in 4 bits."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision.stored_weights import (
    RoundedWeights,
    WeightRecipe,
    coarsest_bits,
    refine_bits,
)
from fewstep.cli.describe.trials import describe_trials
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_weights import select_stored_ops
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.recorded_run import record_run
from fewstep.measure.rollouts.row_by_row import with_row_by_row_prologue
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SEARCH_SEEDS, SeedBatch
from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime.bundle.manifest import ReplacedGraph
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.calibration.precision.deep_body import deep
from tests.calibration.test_calibrate import SCHEDULE, write_bundle
from tests.graph.passes.test_stored_weights import attending
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

WIDTH, LAYERS = 32, 4
INT8, INT4 = map(load_target, WEIGHTS_ONLY)


def mixer() -> Graph:
    """1 -> 32 channels, four products of each pixel's channels with residual sums, and 32 -> 1 channels. Samples
    stay in [-1, 1]."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5 for i in range(LAYERS)}
    ends = {"first": (WIDTH, 1, 1, 1), "last": (1, WIDTH, 1, 1)}
    weights |= {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in ends.items()}
    layers = [f"p{i} = MatMul(a{i}, w{i}) t{i} = Tanh(p{i}) a{i + 1} = Add(a{i}, t{i})" for i in range(LAYERS)]
    text = f"""(float[batch, 1, 8, 8] x, float[batch, 1, 1, 1] row) => (float[batch, 1, 8, 8] v) {{
        h = Conv(x, first) s = Mul(h, row) a0 = Transpose<perm=[0, 2, 3, 1]>(s) {" ".join(layers)}
        b = Transpose<perm=[0, 3, 1, 2]>(a{LAYERS}) o = Conv(b, last) v = Tanh(o)
    }}"""
    return graph_of_text(text, **weights)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "mixer", mixer())


def calibrated(bundle: Path, **changes: object) -> Calibration:
    first = CalibrateOptions(bundle, plan="ddim:3", target=WEIGHTS_ONLY, trajectories=4, threads=1)
    return calibrate(replace(first, **changes))  # type: ignore[arg-type]


def test_bodies_of_weights_need_no_ranges(bundle: Path) -> None:
    result = calibrated(bundle)
    manifest = open_bundle(bundle).manifest
    assert manifest.ranges is None and result.table is None
    assert {*manifest.bodies} == {"float32", *WEIGHTS_ONLY}
    for name in WEIGHTS_ONLY:
        body = manifest.bodies[name]
        assert (body.precision, body.target, body.groups, body.ranges) == (name, name, (), None)
        assert body.is_quantized and body.graph.coverage is None and body.trials[0].psnr > 25
    sizes = [(bundle / manifest.bodies[name].graph.file).stat().st_size for name in manifest.bodies]
    assert sizes[0] > sizes[1] > sizes[2]
    given = {"seeds": range(4), "condition": {"class": [0, 1, 0, 1]}}
    exact, fine, coarse = (load(bundle, name).sample("ddim:3", **given) for name in ("float32", *WEIGHTS_ONLY))
    errors = [np.square(samples - exact).mean() / exact.var() for samples in (fine, coarse)]
    assert all(0 < error < 1e-3 for error in errors)


def test_a_judge_scores_the_samples_of_a_body_of_weights(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def near(ours, exact, conditions):\n    return -abs(ours - exact).mean(axis=(1, 2, 3)), -9\n")
    result = calibrated(bundle, target=("int4-weights",), judge=f"{file}:near")
    (trial,) = result.bodies["int4-weights"].trials
    seeds = BODY_SEEDS[:4]
    records = SeedBatch.from_manifest(open_bundle(bundle).manifest, seeds).conditions
    exact, coarse = (load(bundle, name).sample("ddim:3", seeds, records) for name in ("float32", "int4-weights"))
    assert trial.judged is not None and trial.judged.seeds == len(seeds)
    assert trial.judged.score.value == pytest.approx(-np.abs(coarse - exact).mean(), rel=1e-3)
    assert trial.judged.score.value < -1e-4 and trial.judged.float32.value == 0.0
    (verdict, *_) = describe_trials((trial,), precision="int4-weights")
    assert verdict.startswith("Good to ship: int4-weights scores ")


def wide_setup() -> Graph:
    """row [1, 1, 1] from the time and the label, through two products of 32 channels; its weights are most bytes."""
    rng = np.random.default_rng(7)
    weights = {f"p{i}": rng.standard_normal((256, 256)).astype(np.float32) / 16 for i in range(2)}
    text = """(float[batch] time, int64[batch] label) => (float[batch, 1, 1, 1] row) {
        number = Cast<to=1>(label) scaled = Mul(time, thousandth) both = Add(number, scaled)
        flat = Reshape(both, column) wide = Mul(flat, spread) h0 = MatMul(wide, p0) a0 = Tanh(h0)
        h1 = MatMul(a0, p1) mean = ReduceMean<keepdims=1>(h1, axes) plane = Reshape(mean, square) row = Add(plane, one)
    }"""
    numbers = {"column": np.array([-1, 1]), "square": np.array([-1, 1, 1, 1]), "axes": np.array([1])}
    spread = rng.standard_normal(256).astype(np.float32)
    return graph_of_text(text, **weights, **numbers, thousandth=1e-3, spread=spread, one=np.float32(1))


def test_a_body_has_its_own_prologue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_bundle(tmp_path / "wide", mixer(), prologue_graph=wide_setup())
    caplog.set_level(logging.INFO, "fewstep")
    result = calibrated(folder, target=("int8-weights",))
    assert "prologue in 8 bits" in caplog.text
    manifest = open_bundle(folder).manifest
    own, exported = manifest.bodies["int8-weights"].replaces["prologue"], manifest.prologue
    assert exported is not None and (own.inputs, own.outputs) == (exported.inputs, exported.outputs)
    assert (folder / own.file).stat().st_size < 0.3 * (folder / exported.file).stat().st_size
    of_body = open_bundle(folder).with_graphs_of("int8-weights").manifest
    assert of_body.prologue is not None and of_body.prologue.file == own.file and of_body.bodies == manifest.bodies
    exact, stored = (load(folder, name) for name in ("float32", "int8-weights"))
    assert exact.bundle.manifest.prologue == exported and stored.bundle.manifest.prologue == of_body.prologue
    samples = [sampler.sample("ddim:3", range(8), {"class": [0, 1] * 4}) for sampler in (exact, stored)]
    error = np.square(samples[1] - samples[0]).mean()
    assert 0 < error < 1e-3 and abs(10 * np.log10(4 / error) - result.bodies["int8-weights"].trials[0].psnr) < 6
    # the trial has the error of the prologue too: with float32's own it would be smaller
    mixed = stored.with_network_parts(bundle=exact.bundle, prologue=exact.network().prologue)
    assert np.square(mixed.sample("ddim:3", range(8), {"class": [0, 1] * 4}) - samples[0]).mean() != error


def test_a_packed_body_leaves_the_prologue_of_float32_behind(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "wide", mixer(), prologue_graph=wide_setup())
    calibrated(folder, target=("int8-weights",))
    own = open_bundle(folder).manifest.bodies["int8-weights"].replaces["prologue"]
    packed = pack(PackOptions(folder, tmp_path / "packed", ("int8-weights",)))
    assert (
        packed.prologue is not None and packed.bodies["int8-weights"].replaces["prologue"].file == packed.prologue.file
    )
    assert packed.files[packed.prologue.file] == open_bundle(folder).manifest.files[own.file]
    both = [
        load(path, "int8-weights").sample("ddim:3", range(2), {"class": [0, 1]})
        for path in (folder, tmp_path / "packed")
    ]
    assert np.array_equal(*both)
    (folder / own.file).write_bytes(b"damaged")
    with refuses(f"file {own.file} is damaged", "calibrate"):
        load(folder, "int8-weights")


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"which": "conditioner"}, "the manifest has no conditioner that it could replace"),
        ({"outputs": ()}, "its inputs and outputs are not those of the manifest's prologue"),
    ],
)
def test_a_prologue_that_does_not_fit_is_refused(tiny_bundle: Path, change: dict[str, Any], problem: str) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert manifest.prologue is not None
    which = change.pop("which", "prologue")
    changed = ReplacedGraph(**msgspec.structs.asdict(manifest.prologue) | change)
    body = msgspec.structs.replace(manifest.bodies["float32"], replaces={which: changed})
    change_bundle(tiny_bundle, bodies={"float32": body})
    with refuses(problem, "export"):
        open_bundle(tiny_bundle)


@pytest.mark.slow
def test_int8_bodies_keep_their_ranges_beside_them(tmp_path: Path) -> None:
    """A body of weights changes neither the ranges nor the weights of int8."""
    folder = write_bundle(tmp_path / "deep", deep())
    int8 = calibrated(folder, target=("cpu-x86",)).manifest
    both = calibrated(folder, target=("cpu-x86", "int8-weights")).manifest
    assert {*both.bodies} == {"float32", "int8-cpu-x86", "int8-weights"} and int8.ranges is not None
    assert both.ranges == int8.ranges == both.bodies["int8-cpu-x86"].ranges
    assert both.bodies["int8-cpu-x86"].graphs == int8.bodies["int8-cpu-x86"].graphs


def test_operations_of_the_user_stay_float(bundle: Path) -> None:
    result = calibrated(bundle, target=("int4-weights",), keep_float=("p1",))
    (trial,) = result.bodies["int4-weights"].trials
    assert trial.in_float == ("p1",)
    assert "w1" in result.lowered["int4-weights"].graph.constants


def test_a_network_of_convolutions_has_no_weight_of_4_bits(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "deep", deep())
    with refuses("can be stored in 4 bits, which only matrix products have", "--target int8-weights"):
        calibrated(folder, target=("int4-weights",))
    with refuses("--quality does not apply to int8-weights", "leave"):
        calibrated(folder, target=("int8-weights",), quality="40dB")


@pytest.mark.parametrize(
    ("graph", "kept", "fix"),
    [
        (mixer(), ("p0", "p1", "p2", "p3"), "keep fewer operations in float"),
        (wide_setup(), ("h0", "h1"), "keep fewer operations in float"),
        (graph_of_text("(float[batch, 4] x) => (float[batch, 4] v) { v = Tanh(x) }"), (), "use --precision float32"),
    ],
)
def test_the_fix_without_a_weight_that_can_be_stored_is_one_that_helps(
    graph: Graph, kept: tuple[str, ...], fix: str
) -> None:
    with refuses("can be stored in 8 bits", fix):
        coarsest_bits(INT8, graph, kept)


def test_weights_with_much_error_for_their_bytes_have_8_bits(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    sampler = with_row_by_row_prologue(load(bundle, backend=LazyOnnxRuntime(threads=1)))
    graph = mixer()
    recorded = record_run(sampler, compile_plan("ddim:3", DenoiserFacts(SCHEDULE, "sample")), SEARCH_SEEDS[:2])
    recipe = WeightRecipe(INT4, RoundedWeights(graph, {}), coarsest_bits(INT4, graph), recorded.groups)
    assert recipe.bits == dict.fromkeys(("w0", "w1", "w2", "w3"), 4)
    caplog.set_level(logging.INFO, "fewstep")
    policy = replace(POLICY, byte_price=10.0, nearly_free_bytes=0.3)
    refined = refine_bits(recipe, recorded, 10, policy)
    (finer,) = (code for code, bits in refined.bits.items() if bits == 8)
    assert f"p{finer[1]} has 8 bits" in caplog.text

    def error(code: str) -> float:
        """Return the error of samples if this weight alone has 8 bits, and all others have 4."""
        network = open_session(recipe.rounded.store({**recipe.bits, code: 8}))
        samples = recorded.final_samples(recorded.run([network] * recorded.groups))
        return float(np.square(samples - recorded.sample).mean())

    assert error(finer) == min(map(error, recipe.bits))
    assert refine_bits(recipe, recorded, 10, replace(policy, nearly_free_bytes=0.0)).bits == recipe.bits
    assert "1 of 8 bits" in refined.graphs[0][1].notes[0] and "3 of 4 bits" in refined.graphs[0][1].notes[0]
    in_8_bits = WeightRecipe(INT8, recipe.rounded, coarsest_bits(INT8, graph), recorded.groups)
    assert set(in_8_bits.bits.values()) == {8} and in_8_bits.in_float == ()


def test_a_body_of_4_bits_without_any_weight_in_4_bits_says_so() -> None:
    graph = mixer()
    recipe = WeightRecipe(INT4, RoundedWeights(graph, {}), dict.fromkeys(coarsest_bits(INT4, graph), 8), 1)
    assert recipe.graphs[0][1].notes[0].endswith("4 of 8 bits, none of 4 bits: the weights of int8-weights")


def test_attention_of_a_body_is_one_kernel() -> None:
    graph = attending()
    for bits, products in ((8, 0), (4, 4)):
        stored = RoundedWeights(graph, {}).store({op.code: bits for op in select_stored_ops(graph)})
        assert [stored.ops().count(op) for op in ("MultiHeadAttention", "Softmax")] == [1, 0]
        assert stored.ops().count("MatMulNBits") == products


def test_weights_are_rounded_by_moments_where_there_are_any() -> None:
    graph = mixer()
    (first, *_) = select_stored_ops(graph)
    mixed = np.random.default_rng(1).standard_normal((WIDTH, 8))
    moments = (mixed @ mixed.T + np.eye(WIDTH))[None].astype(np.float32)
    plain, corrected = (RoundedWeights(graph, statistics) for statistics in ({}, {first.code: moments}))
    for bits in (4, 8):
        stored = [weights.store({first.code: bits}).constants for weights in (plain, corrected)]
        name = f"{first.weight}/int4" if bits == 4 else f"{first.weight}/int8_1"
        assert not np.array_equal(*(constants[name] for constants in stored))
