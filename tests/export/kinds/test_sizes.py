"""Export with free sizes: named dimensions in graphs, int8 and engines with them, and networks that fix a size."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import Condition, ScheduleSpec, Size, Spec, free_sizes
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.trace import trace
from fewstep.export.verification.points import sizes_to_verify
from fewstep.export.verification.verify import Verification
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.extents import fix_sizes
from fewstep.graph.files import io
from fewstep.graph.graph import Extent
from fewstep.graph.types import infer_types
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.runtime import UserError, load
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import task_of
from tests.export.networks import free_sizes_network
from tests.export.verify_export import verify_source
from tests.onnx_text import parse_graph
from tests.refusals import refuses

PLAN = "dpmpp_2m:2"
SIZES = (Size("height", 1, low=8, high=32, multiple=8), Size("width", 2, low=8, high=32, multiple=8))


@pytest.fixture(scope="session")
def bundle_of_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Height and width are free, and a picture follows them."""
    folder = tmp_path_factory.mktemp("sizes")
    export(ExportOptions(f"{free_sizes_network.__file__}:make", folder / "bundle"))
    return folder / "bundle"


@pytest.fixture
def bundle(bundle_of_sizes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_of_sizes, tmp_path / "bundle")


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    return {"picture": np.random.default_rng(height).uniform(-1, 1, (2, 1, height, width)).astype(np.float32)}


@pytest.mark.slow
def test_ports_and_rows_are_called_after_what_they_follow(bundle_of_sizes: Path) -> None:
    manifest = open_bundle(bundle_of_sizes).manifest
    body = manifest.bodies["float32"].graph
    shapes = {tensor.name: tensor.shape for tensor in (*body.inputs, *body.outputs)}
    assert shapes["x"] == shapes["output"] == ("batch", 1, "height", "width")
    assert ("batch", 16, "height", "width") in [
        port.shape for port in body.inputs if port.role == "row"
    ]  # the picture's
    assert "picture" not in shapes, "what the picture becomes is made once, in the prologue"
    assert [size.name for size in manifest.sizes] == ["height", "width"]


def test_a_graph_knows_its_sizes_and_what_follows_from_them(bundle_of_sizes: Path) -> None:
    body = load_body(bundle_of_sizes)
    assert body.extents == {"height": Extent(8, 4, 32, 2), "width": Extent(12, 4, 32, 2)}
    types = infer_types(body)
    found = {dim for value in types.values.values() for dim in value.shape}
    assert {"height/2", "width/2", "height*width/4"} <= found
    assert not any("?" in dim or "|" in dim for dim in found if isinstance(dim, str))
    assert all(isinstance(dim, int) or dim == "batch" for value in fix_sizes(body).inputs for dim in value.shape)


@pytest.mark.slow
def test_it_is_verified_at_several_sizes(bundle_of_sizes: Path) -> None:
    bundle = open_bundle(bundle_of_sizes)
    table = msgspec.json.decode(bundle.read(bundle.manifest.verification or ""), type=Verification)
    visited = [comparison.sizes for comparison in table.comparisons]
    for sizes in sizes_to_verify(bundle.manifest):
        assert sizes in visited
    assert table.worst.relative <= 1e-4 or table.worst.stage == "float16"


@pytest.mark.parametrize("height, width", [(4, 4), (8, 12), (32, 6)])
def test_the_torch_module_and_its_bundle_agree_at_any_size(bundle_of_sizes: Path, height: int, width: int) -> None:
    module, _ = free_sizes_network.make()
    x = np.random.default_rng(0).standard_normal((2, 1, height, width), np.float32)
    condition = pictures(height, width)
    with torch.no_grad():
        expected = module.eval()(*map(torch.from_numpy, (x, np.full(2, 300, np.float32), condition["picture"]))).numpy()
    found = load(bundle_of_sizes).evaluate(x, 300.0, condition)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_int8_runs_at_every_size(bundle: Path) -> None:
    calibrate(CalibrateOptions(bundle, PLAN, target=("cpu-x86", "tensorrt"), trajectories=8, size=("8x12", "16x16")))
    float32 = load(bundle)
    coverage = float32.bundle.body("int8-cpu-x86").graph.coverage
    assert coverage is not None and coverage.int8_macs > 0.7 * coverage.total_macs
    for body in ("int8-cpu-x86", "int8-tensorrt"):
        sampler = load(bundle, body=body)
        for height, width in ((8, 12), (4, 4), (20, 24)):
            expected, found = (
                each.with_options(height=height, width=width).sample(PLAN, [0, 1], pictures(height, width))
                for each in (float32, sampler)
            )
            assert found.shape == (2, 1, height, width)
            assert np.sqrt(np.mean((found - expected) ** 2)) <= 0.05 * np.sqrt(np.mean(expected**2)), (body, height)


@pytest.mark.parametrize(
    "size, said",
    [
        ("8", "--size '8' does not give the size of x; write HEIGHTxWIDTH for each"),
        ("8x11", "width 11 is not a multiple of 2"),
        ("8x", "HEIGHTxWIDTH"),
    ],
)
def test_sizes_to_calibrate_at_are_checked_before_anything_runs(bundle_of_sizes: Path, size: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        task_of(CalibrateOptions(bundle_of_sizes, PLAN, size=(size,)))


def test_sizes_that_no_trajectory_would_have_are_refused(bundle_of_sizes: Path) -> None:
    asked = CalibrateOptions(bundle_of_sizes, PLAN, trajectories=1, size=("8x12", "16x16"))
    said = r"1 trajectory cannot cover all sizes of --size 8x12,16x16; follow at least 2 \(--trajectories 2\), or name"
    with pytest.raises(UserError, match=said):
        task_of(asked)
    few = task_of(replace(asked, trajectories=2))
    assert [sizes["height"] for sizes in few.sizes] == [8, 16]


def test_each_seed_of_a_mixture_has_its_own_size(bundle_of_sizes: Path) -> None:
    task = task_of(CalibrateOptions(bundle_of_sizes, PLAN, trajectories=12, size=("8x12", "16x16")))
    found = {}
    for batch in (1, 3, 8):
        for evaluation in roll_out(task.sampler, task.plan, task.seeds, batch=batch, sizes=task.sizes):
            for seed, x in zip(evaluation.seeds, evaluation.state.u, strict=True):
                found.setdefault(seed, set()).add(x.shape)
    assert [found[seed] for seed in task.seeds] == 3 * [{(1, 8, 12)}, {(1, 8, 12)}, {(1, 16, 16)}, {(1, 16, 16)}]


def test_an_engine_is_built_for_a_range_of_sizes(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = build(BuildOptions(bundle, device=("sm89",), precision="float16", max_batch="x:4x1x16x32")).built
    manifest = open_bundle(bundle)
    keys = {engine.body: engine_files.read_sidecar(manifest, engine).built_from for engine in built}
    assert keys["float16"].batches == (1, 4, 4)
    assert keys["float16"].sizes == {"height": (4, 8, 16), "width": (4, 12, 32)}
    assert keys["prologue"].sizes == keys["float16"].sizes, "the prologue is given the picture"


def load_body(bundle: Path):
    graph = open_bundle(bundle).manifest.bodies["float32"].graph
    return io.load(bundle / graph.file)


class Table(nn.Module):
    """Positions for one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.ones(1, 1, 16, 16))

    def forward(self, x, time):
        return x + self.positions


class Branch(nn.Module):
    """A network that runs at any size, and computes a number from one."""

    def forward(self, x, time):
        if x.shape[2] == 24:
            x = 2 * x
        return x + time[:, None, None, None]


class Window(nn.Module):
    """A window of another size than the traced one has another number of values. The error is not in the line before
    it.
    """

    def forward(self, x, time):
        x = x + time[:, None, None, None]
        return x * torch.hann_window(x.shape[2])[:, None]


class Halves(nn.Module):
    """A network that needs multiples of 16."""

    def forward(self, x, time):
        small = nn.functional.avg_pool2d(x, 16)
        return x + nn.functional.interpolate(small, scale_factor=16.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, said",
    [
        (Table(), r"Table failed at height 8, width 8: .*\(test_sizes.py:\d+\); give no sizes"),
        (Branch(), r"Branch fixes height \(.*x.shape\[2\] == 24.*\); give no sizes, or export that size only"),
        (Window(), r"Window fixes height \(.*torch.hann_window.*\); give no sizes, or export that size only"),
        (Halves(), r"Halves failed at height 8, width 8: .*test_sizes.py:.*; give .* height=16:32:16, width=16:32:16"),
    ],
)
def test_what_fixes_a_size_is_named_with_its_line(module: nn.Module, said: str) -> None:
    spec = Spec("fixed", (1, 16, 16), (), "v", ScheduleSpec("cosine"), sizes=SIZES)
    with pytest.raises(UserError, match=said):
        trace(module, spec)


class Root(nn.Module):
    def forward(self, x, time):
        return x / math.sqrt(x.shape[2] * x.shape[3]) + time[:, None, None, None]


@pytest.mark.slow
def test_a_number_that_math_computes_from_sizes_is_named() -> None:
    spec = Spec("fixed", (1, 16, 16), (), "v", ScheduleSpec("cosine"), sizes=SIZES)
    message = r"differs from torch from node .*; write that operation differently; the graph stores a number such"
    with pytest.raises(UserError, match=message):
        verify_source(TorchSource(Root(), spec, "own", "0" * 64))


def source(x_shape: tuple[int, ...], *conditions: Condition) -> TorchSource:
    spec = Spec("own", x_shape, conditions, "v", ScheduleSpec("cosine"))
    return TorchSource(nn.Identity(), spec, "own", "0" * 64)


def test_sizes_of_the_command_line_free_x_and_the_pictures_next_to_it() -> None:
    control = Condition("control", "control", (3, 512, 512), "float32")
    text = Condition("text", "text", (77, 768), "float32")
    spec = with_sizes(source((4, 64, 64), control, text), ("height=32:128:8", "width=32:128:8")).spec
    assert spec.sizes == (Size("height", 1, 32, 128, 8), Size("width", 2, 32, 128, 8))
    assert [condition.follows for condition in spec.conditions] == [{1: "height*8", 2: "width*8"}, {}]
    assert with_sizes(source((2, 64)), ("length=16:256:16",)).spec.sizes == (Size("length", 1, 16, 256, 16),)
    assert with_sizes(source((16, 2)), ("horizon@0=8:64:8",)).spec.sizes == (Size("horizon", 0, 8, 64, 8),)


@pytest.mark.parametrize(
    "text, said",
    [
        ("height", "--size 'height' is not a range of sizes; write NAME=LOW:HIGH:MULTIPLE"),
        ("height=32", "write NAME=LOW:HIGH:MULTIPLE"),
        ("height@9=8:64", r"--size 'height@9=8:64': x \[4, 64, 64\] has no such axis"),
        ("horizon=8:64", r"x \[4, 64, 64\] has no such axis"),
        ("height=128:32:8", "--size height: .*; write NAME=LOW:HIGH:MULTIPLE"),
        ("height=32:128:48", "--size height: .*; write NAME=LOW:HIGH:MULTIPLE"),
    ],
)
def test_what_is_no_size_on_the_command_line_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_sizes(source((4, 64, 64), Condition("image", "image", (3, 64, 64), "float32")), (text,))


def test_sizes_to_trace_at_are_near_the_default_and_differ() -> None:
    wide = with_sizes(source((4, 64, 64)), ("height=1:16777216", "width=8:128:8")).spec
    assert free_sizes.trace_sizes(wide) == {"height": 64, "width": 56}
    narrow = with_sizes(source((4, 8, 8)), ("height=8:16:8", "width=8:16:8")).spec
    assert free_sizes.trace_sizes(narrow) == {"height": 16, "width": 16}  # the axis is then 2 * 8


class Halves(nn.Module):
    def forward(self, x, time):
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError("an odd size")
        return x + time[:, None, None, None]


def test_two_sizes_of_two_values_each_are_traced() -> None:
    sizes = (Size("height", 1, 8, 16, 8), Size("width", 2, 8, 16, 8))
    traced = trace(Halves(), Spec("own", (1, 8, 8), (), "v", ScheduleSpec("cosine"), sizes=sizes))
    assert traced.graph.inputs[0].shape[2:] == ("height", "width")


def onnx_file(folder: Path, height: int | str) -> Path:
    """A convolution of x plus its time, as any exporter might write it."""
    shape = f"b, 2, {height}, w"
    made = parse_graph(
        f"""net (float[{shape}] sample, float[b] timestep) => (float[{shape}] out) {{
            h = Conv<pads=[1, 1, 1, 1]>(sample, weight)
            shift = Reshape(timestep, planes)
            out = Add(h, shift)
        }}""",
        weight=np.ones((2, 2, 3, 3), np.float32) / 9,
        planes=np.array([-1, 1, 1, 1]),
    )
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    spec = {"name": "net", "x_shape": [2, 8, 8], "prediction": "v", "schedule": {"kind": "cosine"}, "conditions": []}
    spec |= {"x": "sample", "time": "timestep", "output": "out"}
    sizes = [{"name": name, "axis": axis, "low": 4, "high": 16} for axis, name in enumerate(("height", "width"), 1)]
    (folder / "net.json").write_text(json.dumps(spec | {"sizes": sizes}))
    return folder / "net.onnx"


def test_an_onnx_file_with_open_axes_keeps_them(tmp_path: Path) -> None:
    options = ExportOptions(str(onnx_file(tmp_path, "h")), tmp_path / "bundle", tmp_path / "net.json")
    export(options)
    x = load(tmp_path / "bundle").with_options(height=5, width=16).sample("ddim:2", [0])
    assert x.shape == (1, 2, 5, 16)


def test_an_onnx_file_that_fixes_a_size_is_refused(tmp_path: Path) -> None:
    options = ExportOptions(str(onnx_file(tmp_path, 8)), tmp_path / "bundle", tmp_path / "net.json")
    with refuses(("sample", "[batch, 2, 8, w]", "'height', 'width'")):
        export(options)
