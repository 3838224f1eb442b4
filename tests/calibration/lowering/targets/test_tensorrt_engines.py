"""The kernels, bytes and types of TensorRT-RTX's engines of shipped bodies, compared with a table."""

from pathlib import Path

import pytest

from benchmarks.nvidia.int8_forms import engine_of
from fewstep.calibration.activation_counts import count_activations, tabulate
from fewstep.calibration.lowering.quantize import lower, select_measured_ops
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.float32_scales import float32_scales
from fewstep.graph.passes.half import to_half
from tests.calibration.test_calibrate import task_of
from tests.graph.engines.test_build import needs_tensorrt_rtx
from zoo.members import BY_NAME, SHIPPED

MODELS = BY_NAME | {member.name: member for member in SHIPPED}
HELD = {  # kernels of float16 and of int8, and their MB for each device, at batch 2
    "fashion_mnist": (98, 98, {"SM86": (24.17, 19.71), "SM89": (24.17, 19.94)}),
    "dit_flow": (45, 41, {"SM86": (4.26, 3.81), "SM89": (4.26, 3.81)}),
    "policy_unet1d": (120, 120, {"SM86": (1.77, 1.18), "SM89": (1.80, 1.20)}),
}
NEAR = 0.01  # of the bytes: what calibration finds moves a pad here and there


@needs_tensorrt_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_int8_has_no_kernel_more_than_float16_and_moves_fewer_bytes(name: str, tmp_path: Path) -> None:
    member = MODELS[name]
    export(ExportOptions(member.source, tmp_path / "bundle"))
    options = CalibrateOptions(
        bundle=tmp_path / "bundle", plan=member.plan, target=("tensorrt",), guidance=member.guidance, trajectories=4
    )
    task = task_of(options)
    ranges = tabulate(task, count_activations(task))
    in_float = TENSORRT.slower(task.prepared, select_measured_ops(task.prepared, ranges, TENSORRT.scheme))
    body = lower(task.prepared, ranges, TENSORRT, in_float).graph
    half_kernels, kernels, moved = HELD[name]
    for device, (half_bytes, megabytes) in moved.items():
        graphs = to_half(task.prepared, FLOAT16), body, float32_scales(body)
        half, int8, wide = (engine_of(graph, tmp_path, device) for graph in graphs)
        assert (len(half.each), len(int8.each)) == (half_kernels, kernels) and kernels <= half_kernels
        assert half.bytes == pytest.approx(half_bytes * 1e6, rel=NEAR)
        assert int8.bytes == pytest.approx(megabytes * 1e6, rel=NEAR) and megabytes < 0.9 * half_bytes
        assert set(int8.outputs) == {"float16"}  # scales of channels in front of Conv made it float32
        assert int8.macs["int8"] > 0.85 * sum(int8.macs.values())
        assert (len(wide.each), wide.macs, wide.outputs) == (kernels, int8.macs, int8.outputs)
        assert wide.bytes == pytest.approx(int8.bytes, rel=NEAR)
