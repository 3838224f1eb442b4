"""Files for a machine with a GPU: they are read as they were written, and samples follow the plan."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nvidia.cudnn.fused_groups import fuse_groups
from benchmarks.nvidia.cudnn.programs import PreparedRun, StepRows, load_graph, load_run, save_graph
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.graph import GROUP
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import EDGES, body, table

pytest.importorskip("torch")
from benchmarks.gpu.results import StepTime
from benchmarks.nvidia.cudnn.commands.run import find_prepared
from benchmarks.nvidia.cudnn.engines import INT8
from benchmarks.nvidia.cudnn.whole_steps import add_psnr, draw, feeds_of, first_seeds
from tests.refusals import refuses

ROOT = Path(__file__).parents[3]
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)  # of three seeds, branch by branch
RUN = PreparedRun(
    x="x",
    start=((2.0,),),
    steps=(StepRows((1.0,), ((0.5, 1.0, -1.0),), 0), StepRows((0.5,), ((1.0, 0.0, 1.0),), 1)),
    output=(3.0,),
    branches=2,
    noise=np.array([[1, 2], [3, 4], [5, 6]], np.float32),
    feeds=({"row": ROWS, GROUP: np.array([0])}, {"row": -ROWS, GROUP: np.array([1])}),
    expected={"float32": np.ones((3, 2), np.float32)},
)


class Networks:
    """Networks that return x + row times (number of the graph + 1), in place of bodies."""

    def __init__(self) -> None:
        self.networks = [lambda feeds, by=by: feeds["x"] + feeds["row"] * by for by in (1, 2)]


def by_hand(seed: int) -> np.ndarray:
    x = 2 * RUN.noise[seed]
    x = 0.5 * x + (x + ROWS[seed]) - (x + ROWS[seed + 3])
    return 3 * (x + (0.5 * x - 2 * ROWS[seed + 3]))


@pytest.mark.parametrize("batch", [2, 4, 6])
def test_samples_follow_the_plan_whatever_the_batch(batch: int) -> None:
    found = draw(RUN, Networks(), batch, is_int8=True, device="cpu")  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [by_hand(seed) for seed in range(3)], rtol=1e-6)


def test_first_seeds_keep_their_branches() -> None:
    few = first_seeds(RUN, 2)
    found = draw(few, Networks(), 4, is_int8=True, device="cpu")  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [by_hand(seed) for seed in range(2)], rtol=1e-6)


def test_a_batch_repeats_the_rows_of_the_first_step() -> None:
    feeds = feeds_of(RUN, 8, "cpu")
    assert feeds["row"].tolist() == [*ROWS.tolist(), *ROWS[:2].tolist()]
    assert feeds["x"].shape == (8, 2) and feeds[GROUP].tolist() == [0]


def test_the_denoisers_of_a_folder_are_those_that_are_complete(tmp_path: Path) -> None:
    for name in ("one", "two", "three.partial"):
        (tmp_path / name).mkdir()
        RUN.save(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert find_prepared(tmp_path, None) == ["one", "two"]
    assert find_prepared(tmp_path, ["two"]) == ["two"]


def test_a_denoiser_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    RUN.save(tmp_path / "one")
    with refuses("two", "choose from one"):
        find_prepared(tmp_path, ["one", "two"])


def test_a_folder_without_denoisers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not have any denoiser"):
        find_prepared(tmp_path / "missing", None)


def test_a_difference_in_psnr_is_paired_by_seed() -> None:
    """Errors of 2 * 10**(-dB / 20) give 40 and 30 dB in the simulation, and 41 and 32 dB here: 1 and 2 dB more."""
    zeros = np.zeros((2, 3), np.float64)
    simulated, found = (zeros + 2 * 10 ** (-np.array(db)[:, None] / 20) for db in ([40, 30], [41, 32]))
    run = first_seeds(RUN, 2)
    run = replace(run, expected={"float32": zeros, "int8-tensorrt": simulated})
    row = add_psnr(StepTime("m", 2, INT8), found, run)
    assert (row.mean, row.difference, row.standard_error) == pytest.approx((36.5, 1.5, 0.5))


def test_one_seed_has_no_standard_error() -> None:
    run = replace(RUN, expected={"float32": np.zeros((1, 2)), "int8-tensorrt": np.full((1, 2), 0.02)})
    row = add_psnr(StepTime("m", 2, INT8), np.full((1, 2), 0.2), run)
    assert row.difference == pytest.approx(-20) and row.standard_error is None


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    RUN.save(tmp_path)
    found = load_run(tmp_path)
    assert (found.start, found.steps, found.output, found.branches) == (RUN.start, RUN.steps, RUN.output, RUN.branches)
    assert all((found.feeds[1][name] == RUN.feeds[1][name]).all() for name in RUN.feeds[1])
    assert (found.noise == RUN.noise).all() and (found.expected["float32"] == 1).all()


@pytest.mark.parametrize("target", [TENSORRT, TENSORRT.wider], ids=["float16", "bfloat16"])
def test_a_graph_is_read_as_it_was_written(target: Target, tmp_path: Path) -> None:
    graph = fuse_groups(lower(body(), table(body(), EDGES), target).graph)
    save_graph(graph, tmp_path / "graph.npz")
    found = load_graph(tmp_path / "graph.npz")
    assert (found.inputs, found.outputs) == (graph.inputs, graph.outputs)
    assert [(each.op, each.inputs, each.outputs, each.domain) for each in found.nodes] == [
        (each.op, each.inputs, each.outputs, each.domain) for each in graph.nodes
    ]
    assert all(
        {name: tuple(value) if isinstance(value, list) else value for name, value in node.attributes.items()}
        == same.attributes
        for node, same in zip(graph.nodes, found.nodes, strict=True)
    )
    assert all((found.constants[name] == array).all() for name, array in graph.constants.items())
    assert all(found.constants[name].dtype == array.dtype for name, array in graph.constants.items())


def test_a_machine_with_a_gpu_needs_neither_onnx_nor_onnxruntime() -> None:
    code = "import sys; import benchmarks.nvidia.cudnn.commands.run; print({'onnx', 'onnxruntime'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "set()"
