"""float16 and bfloat16, alone and around int8: samples by rounding on a CPU, and what TensorRT-RTX builds for sm86.

    python -m benchmarks.nvidia.half_precision --work FOLDER

writes a table of lab/measured/nvidia.md. Every weight and every result is rounded to the type, and sums are float32.
int8 has the *lean* form (defined in lab/measured/nvidia.md), with either type for its float operations, in one graph,
at batch 2. The work folder keeps exports.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nvidia.int8_forms import count_and_record, engine_of, write_page
from fewstep.calibration.activation_counts import tabulate
from fewstep.calibration.lowering.quantize import lower_graph, make_quantizer, select_measured_ops
from fewstep.calibration.lowering.targets.tensorrt import make_target
from fewstep.graph.engines.kernels import Kernels
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import HALVES
from fewstep.graph.passes.float32 import to_float32
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.rounding import round_to
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.errors import UserError
from zoo.members import Member

SCRIPT = "benchmarks/nvidia/half_precision.py"
DEVICE = "SM86"
MODELS = ("fashion_mnist", "dit_flow", "convnext_v_cosine", "residual_outliers")
HEAD = ("model", "body", "kernels", "by the type that they write", "MB", "dB, mean / 5th percentile")


def rows_of(member: Member, work: Path, seeds: int) -> list[list[str]]:
    """The rows of a model: each type alone, then around int8."""
    task, counts, moments, course = count_and_record(member, work, seeds)
    ranges = tabulate(task, counts)
    most = max(counts.max_magnitudes().values())
    with tempfile.TemporaryDirectory() as folder:

        def row(name: str, graph: Graph, half: np.dtype[Any]) -> list[str]:
            kernels = engine_of(graph, Path(folder), DEVICE)
            size = f"{(kernels.bytes or 0) / 1e6:.2f}"
            return [name, str(len(kernels.each)), by_type(kernels), size, quality(course, simulate(graph, half))]

        rows = [row(name, to_half(task.prepared, half), half) for name, half in HALVES.items()]
        for name, half in HALVES.items():
            target = make_target(half)
            in_float = target.slower(task.prepared, select_measured_ops(task.prepared, ranges, target.scheme))
            try:
                graph, _, _ = lower_graph(task.prepared, ranges, target, in_float, make_quantizer(target, moments))
            except UserError:  # an activation is beyond the type
                rows.append([f"int8 in {name}", "refused", "", "", ""])
            else:
                rows.append(row(f"int8 in {name}", graph, half))
    print(*rows, sep="\n", flush=True)
    return [[f"{member.name}, reaches {most:.3g}" if number == 0 else "", *each] for number, each in enumerate(rows)]


def simulate(graph: Graph, half: np.dtype[Any]) -> Graph:
    """A graph of 16 bits that rounds on the CPU."""
    return round_to(to_float32(graph), half)


def by_type(kernels: Kernels) -> str:
    """How many kernels write each type."""
    written = Counter(kernel.writes[0] for kernel in kernels.each if kernel.writes)
    return ", ".join(f"{count} {name}" for name, count in written.most_common())


def quality(course: RecordedRun, graph: Graph) -> str:
    """PSNR of samples against float32, where all of them are finite."""
    network = open_session(graph, optimize=True, fuse_qdq=False)
    try:
        psnr = course.decibels(course.run([network] * course.groups))
    except UserError:  # the step whose output is not finite
        return "not finite"
    return f"{psnr.mean():.1f} / {np.percentile(psnr, 5):.1f}" if np.isfinite(psnr).all() else "not finite"


if __name__ == "__main__":
    write_page(__doc__, SCRIPT, MODELS, HEAD, rows_of)
