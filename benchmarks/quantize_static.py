"""Is calibration worth its code? Our int8 body against onnxruntime's own `quantize_static`, on the same held-out seeds.

    python benchmarks/quantize_static.py BUNDLE [--json]

The baseline gets the same prepared float graph, the same calibration trajectories and the same excluded layers:
min-max ranges, activations uint8, weights int8 per channel. Both are judged along the plan and guidance that ours was
calibrated along. That as many operations run in int8 is counted, not assumed. Bar: ours is at least 1 dB above it.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from fewstep.calibration.bodies import judged_plan
from fewstep.calibration.calibrate import CalibrateOptions
from fewstep.calibration.evaluation.held_out import held_out_conditions
from fewstep.calibration.evaluation.judge import Candidate, Setting, judge
from fewstep.calibration.lowering.coverage import optimized
from fewstep.calibration.lowering.selection import selected_ops
from fewstep.calibration.report.measure import denoiser
from fewstep.calibration.results import EndQuality
from fewstep.calibration.trajectories import roll_out
from fewstep.cli.progress import Shown
from fewstep.graph import io
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.errors import UserError
from fewstep.runtime.guidance import weight_of
from fewstep.runtime.loading import load
from fewstep.runtime.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

OURS = "int8-cpu-x86"
BASELINE = "quantize_static"
INTEGER_KERNELS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")
BAR = 1.0  # dB of the mean, ours above the baseline


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Every evaluation of every trajectory, as onnxruntime's calibrator asks for them."""

    def __init__(self, sampler: Sampler, plan: Plan, seeds: range) -> None:
        self.feeds: Iterator[Arrays] = (evaluation.feeds for evaluation in roll_out(sampler, plan, seeds))

    def get_next(self) -> dict[str, Any] | None:
        feeds = next(self.feeds, None)
        return None if feeds is None else dict(feeds)


def quantize(sampler: Sampler, plan: Plan, seeds: range, folder: Path) -> Path:
    """The float body of a sampler's bundle, quantized by onnxruntime; the ops that ours leaves in float stay so."""
    graph = io.load(sampler.bundle.graph(sampler.body.graph), root=sampler.bundle.path)
    taken = {op.name for op in selected_ops(graph)}
    nodes = [replace(node, name=node.output) for node in graph.nodes]  # unique, so that exclusion is exact
    io.save(graph.with_nodes(nodes), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Feeds(sampler, plan, seeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        nodes_to_exclude=[node.name for node in nodes if node.output not in taken],
    )
    return folder / "int8.onnx"


def integer_kernels(path: Path) -> int:
    """Weighted operations that run in int8, in the graph as onnxruntime optimizes it."""
    return sum(node.op_type in INTEGER_KERNELS for node in optimized(io.from_model(onnx.load(path), path)))


def compare(bundle: Path, seeds: int, trajectories: int, first: int, progress: Progress = SILENT) -> dict[str, Any]:
    """End PSNR of both against float32, on the same seeds and plan."""
    sampler = load(bundle, body="float32", backend=OnnxRuntime())
    ours = load(bundle, body=OURS, backend=OnnxRuntime())
    plan = judged_plan(sampler, ours.body)
    with TemporaryDirectory() as temporary:
        path = quantize(sampler, plan, range(first, first + trajectories), Path(temporary))
        baseline = replace(sampler, denoiser=OnnxRuntime().open(path))
        kernels = {BASELINE: integer_kernels(path)}
    kernels[OURS] = integer_kernels(ours.bundle.graph(ours.body.graph))
    manifest = sampler.bundle.manifest
    setting = Setting(
        plan=plan,
        teacher=plan,  # only the float32 body along the same plan is a reference here
        teacher_seeds=1,
        seeds=seeds,
        x_shape=manifest.x_shape,
        conditions=lambda part: held_out_conditions(manifest.conditions, part),
    )
    found = judge(
        setting,
        denoiser(sampler),
        [
            Candidate(OURS, denoiser(ours), ours.body.groups, seeds, 1),
            Candidate(BASELINE, denoiser(baseline), (), seeds, 1),
        ],
        progress,
    )
    ends: dict[str, EndQuality] = {name: found.bodies[name].against_float for name in (OURS, BASELINE)}
    return {
        "plan": plan.name,
        "guidance": weight_of(plan.guidance),
        "seeds": seeds,
        "trajectories": trajectories,
        "psnr": {name: {"mean": end.mean, "p5": end.p5, "worst": end.worst} for name, end in ends.items()},
        "int8_kernels": kernels,
        "comparable": kernels[OURS] == kernels[BASELINE],
        "gain_db": ends[OURS].mean - ends[BASELINE].mean,
        "bar_db": BAR,
    }


def main() -> int:
    """0 if the bar is met at equal coverage, 1 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seeds", type=int, default=256, help="held-out seeds 0 .. seeds - 1")
    parser.add_argument("--trajectories", type=int, default=CalibrateOptions.trajectories, help="as calibrate had")
    parser.add_argument("--seed", type=int, default=CalibrateOptions.seed, help="of the first, as calibrate had")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # quantize_static advises what prepared graphs have behind them
    try:
        with Shown() as progress:
            found = compare(arguments.bundle, arguments.seeds, arguments.trajectories, arguments.seed, progress)
    except UserError as error:
        parser.error(str(error))
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"end PSNR against float32, {found['plan']}, guidance {found['guidance']}, {found['seeds']} seeds")
        for name, end in found["psnr"].items():
            kernels = found["int8_kernels"][name]
            print(f"  {name:16} mean {end['mean']:6.2f} dB   p5 {end['p5']:6.2f} dB   {kernels} int8 kernels")
        print(f"ours is {found['gain_db']:+.2f} dB (bar: {BAR:+.1f})")
        if not found["comparable"]:
            print("not comparable: one runs more operations in int8 than the other")
    return 0 if found["comparable"] and found["gain_db"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
