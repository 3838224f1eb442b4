"""What 8 bits cost on Hexagon, by which tensors have them: samples in ONNX's arithmetic beside float32's.

    python -m benchmarks.npu.operands BUNDLE [--plan dpmpp_2m:8@arctan] [--guidance 2]

BUNDLE is exported. Ranges and second moments are of 16 trajectories, and the seeds that judge are those of `calibrate`.
All other tensors have 16 bits, and all weights 8.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import options
from benchmarks.markdown import table
from fewstep.calibration.calibrated_body import judging_course
from fewstep.calibration.count import count_activations, tabulate
from fewstep.calibration.opening import open_task
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.second_moments import second_moments
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.graph.selection import selected_ops
from fewstep.graph.session import open_session
from fewstep.graph.types import Types
from fewstep.lowering.encoding import Encoding, asymmetric_uint8, eight_of
from fewstep.lowering.everywhere import pairs_everywhere
from fewstep.lowering.quantize import lower_graph, rounding
from fewstep.lowering.targets.qnn import QNN
from fewstep.plans.plan import regroup
from fewstep.ranges.methods import narrow_ranges
from fewstep.ranges.moments import Moments
from fewstep.ranges.observe import Counts
from fewstep.ranges.table import Ranges, RangesTable


@dataclass(frozen=True)
class Material:
    task: Task
    counts: Counts
    moments: Moments
    whole: RangesTable  # of all that tensors reached

    def ranges(self, name: str, is_clipped: bool) -> Ranges:
        return narrow_ranges(self.counts.of(name)) if is_clipped else self.whole[name]

    def graph(self, read: Collection[str], written: Collection[str], is_clipped: bool) -> Graph:
        """The body in which the operations `read` read 8 bits, and the tensors `written` have them."""
        ops = {op.name: op for part in self.task.weighted for op in part}

        def finish(graph: Graph, types: Types, codes: dict[str, Encoding]) -> Graph:
            names = {eight_of(ops[name].x): ops[name].x for name in read} | {name: name for name in written}
            own = {code: asymmetric_uint8(self.ranges(of, is_clipped), grouped=False) for code, of in names.items()}
            return pairs_everywhere(graph, types, {**codes, **own})

        quantize = rounding(self.whole, QNN, self.moments)
        return lower_graph(self.task.prepared, self.whole, replace(QNN, finish=(finish,)), (), quantize)[0]


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="dpmpp_2m:8@arctan")
    parser.add_argument("--guidance", type=float, default=2.0)
    given = parser.parse_args()
    task = open_task(CalibrateOptions(given.bundle, given.plan, ("qnn",), 16, given.guidance, threads=1))
    counts = count_activations(task)
    whole = tabulate(counts, task.prepared, "0" * 64, given.plan, "channels", everything=True)
    own = Material(task, counts, second_moments(task), whole)
    course = judging_course(task, regroup(task.plan, {task.network: counts.edges}))
    every = {op.name for part in task.weighted for op in part}
    inner = {op.name for op in selected_ops(task.prepared)}
    rows = {
        "none": own.graph((), (), True),
        "what inner operations read": own.graph(inner, (), True),
        "the same, nothing clipped": own.graph(inner, (), False),
        "what all operations read": own.graph(every, (), True),
        "what inner operations read and make": own.graph(inner, inner, True),
        "every tensor": own.graph((), counts.tensors, True),
    }
    print(table(("8 bits", "mean dB", "5th percentile"), ()))
    for name, graph in rows.items():
        network = open_session(graph, optimize=True, arena=True, fuse_qdq=False, threads=1)
        psnr = course.quality(course.run([network] * course.groups))
        print(f"| {name} | {psnr.mean():.1f} | {np.percentile(psnr, 5):.1f} |", flush=True)


if __name__ == "__main__":
    main()
