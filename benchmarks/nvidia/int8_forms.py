"""TensorRT-RTX's engines of different forms of int8, built without a GPU, and the quality of their samples.

    python -m benchmarks.nvidia.int8_forms --work FOLDER

writes the table of lab/measured/nvidia.md. Kernels and bytes are of engines for each of DEVICES, batch 2, for one
evaluation. Quality is simulated by onnxruntime on held-out seeds. The work folder stores exports and results, so a
run that was stopped continues.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np

import fewstep.graph
import fewstep.measure
import fewstep.plans
import fewstep.runtime
from benchmarks.markdown import put_part, table
from benchmarks.options import parser_of
from benchmarks.result_store import load_or_compute
from benchmarks.zoo_bundles import calibration, exported
from fewstep.calibration.activation_counts import count_activations, tabulate, tabulate_part
from fewstep.calibration.lowering.encoding import symmetric_int8
from fewstep.calibration.lowering.group_factors import add_group_factors
from fewstep.calibration.lowering.qdq_pairs import qdq_form
from fewstep.calibration.lowering.quantize import lower_graph, make_quantizer, select_measured_ops
from fewstep.calibration.lowering.scheme import Target, find_no_slower_operations
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.ranges.moments import Moments
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.second_moments import follow_first_trajectories
from fewstep.calibration.task import Task
from fewstep.graph.engines.build_engine import run_worker
from fewstep.graph.engines.builders import STRICT
from fewstep.graph.engines.kernels import Kernels, kernels_of
from fewstep.graph.files.io import save
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.plans.any_plan import regroup
from fewstep.plans.plan import DENOISER, Plan
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.packages import package_versions
from zoo.members import BY_NAME, HELD_OUT, SHIPPED, Member

PAGE = Path(__file__).parents[2] / "lab/measured/nvidia.md"
SCRIPT = "benchmarks/nvidia/int8_forms.py"
DEVICES, BATCH, FIRST_SEED = ("SM80", "SM86", "SM89", "SM120"), 2, 40_000
CONVOLUTIONS = frozenset({"Conv"})
BEFORE = replace(TENSORRT.scheme, form=qdq_form(np.dtype(np.float16)), placing=None, one_scale=frozenset[str]())
PLAIN = replace(
    TENSORRT.scheme,
    encode=symmetric_int8,
    arithmetic=(add_group_factors,),
    least_gain=1e9,
    placing=None,
    one_scale=CONVOLUTIONS,
)
ALL = replace(TENSORRT, rewrites=(), slower=find_no_slower_operations)
FORMS: Mapping[str, tuple[Target, int]] = {  # by name, with the number of graphs; 0: one, with one range for all steps
    "before": (replace(ALL, scheme=BEFORE), 1),
    "plain": (replace(ALL, scheme=PLAIN), 0),
    "lean": (TENSORRT, 1),
    "lean, 2 graphs": (TENSORRT, 2),
    "lean, 3 graphs": (TENSORRT, 3),
}


class RandomBlock(Member):
    """A block of random weights in this folder."""

    @property
    def source(self) -> str:
        return f"{self.weights}:make"

    @property
    def weights(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.py")  # all that its weights follow from

    def rows(self, count: int, seed: int) -> None:
        return None


FEW = 2  # trajectories and seeds of a block, whose attention takes 1 GB a step
BLOCK = RandomBlock("sd15_block", "ddim:2", guidance=2.0, needs="diffusers")
KNOWN: Mapping[str, Member] = BY_NAME | {member.name: member for member in (*SHIPPED, BLOCK)}
MODELS = (
    "policy_unet1d",
    "dit_flow",
    "unet_edm_cifar",
    "fashion_mnist",
    "cifar10",
    "convnext_v_cosine",
    "text_unet_flow",
    BLOCK.name,
)
HEAD = ("model", "form", *(device.lower() for device in DEVICES), "MACs in int8", "dB, mean / 5th percentile")


def digest_of(graph: Graph) -> str:
    """A digest of a graph with its weights."""
    with tempfile.TemporaryDirectory() as folder:
        save(graph, Path(folder) / "graph.onnx")
        return sha256((Path(folder) / "graph.onnx").read_bytes()).hexdigest()


def engine_of(graph: Graph, folder: Path, device: str) -> Kernels:
    """Return the kernels of an engine of a graph, which the folder stores."""
    own = (digest_of(graph), device, BATCH, digest_code((fewstep.graph,)), package_versions())
    return load_or_compute(folder, Kernels, lambda: built(graph, device), *own)


def built(graph: Graph, device: str) -> Kernels:
    """The kernels of an engine that is built."""
    shapes = {
        value.name: [[size if isinstance(size, int) else BATCH for size in value.shape]] * 3 for value in graph.inputs
    }
    asked = {"module": "tensorrt_rtx", "shapes": shapes, "flags": STRICT, "compute_capability": device}
    with tempfile.TemporaryDirectory() as folder:
        file, engine, request = (Path(folder) / name for name in ("graph.onnx", "graph.engine", "request.json"))
        save(graph, file)
        request.write_text(json.dumps({**asked, "timing_cache": None, "layers": None}))
        run_worker([str(file), str(engine), str(request)], graph.name, 3600.0, "tensorrt-rtx")
        kernels = kernels_of(engine.read_bytes())
    assert kernels is not None and kernels.bytes is not None
    return kernels


def count_and_record(member: Member, work: Path, seeds: int) -> tuple[Task, Counts, Moments, RecordedRun]:
    """Return a model's bundle, exported unless it is in the folder, its counted activations, and the run of held-out
    seeds.
    """
    few = FEW if member is BLOCK else CalibrateOptions.trajectories
    options = calibration(member, exported(member, work), member.plan, ("tensorrt",), few, rows=256)
    seeds = min(seeds, few) if member is BLOCK else seeds
    task = open_tasks(options.open(), options, check_options(options))[DENOISER]
    counts, moments = count_activations(task), follow_first_trajectories(task).moments
    plan = regroup(task.plan, {DENOISER: counts.edges})
    assert isinstance(plan, Plan)
    course = record_run(task.sampler, plan, range(FIRST_SEED, FIRST_SEED + seeds), member.rows(seeds, HELD_OUT))
    return task, counts, moments, course


def measure_forms(member: Member, work: Path, seeds: int) -> list[list[str]]:
    """The rows of a model: float16, then each form."""
    task, counts, moments, course = count_and_record(member, work, seeds)
    own = tabulate(task, counts)
    engines = partial(engines_of, folder=work)
    half = engines(to_half(task.prepared, FLOAT16))
    lines = [[member.name, "float16", *map(count_traffic, half), "0 %", ""]]
    for name, (target, count) in ((name, form) for name, form in FORMS.items() if form[1] <= course.groups):
        in_float = target.slower(task.prepared, select_measured_ops(task.prepared, own, target.scheme))
        ends = [round(course.groups * number / count) for number in range(count + 1)] if count else [0, course.groups]
        parts = (
            [tabulate_part(own, counts, task.prepared, slice(*part)) for part in pairwise(ends)] if count > 1 else []
        )
        tables = parts or [own if count else pool_ranges(own)]
        graphs = [
            lower_graph(task.prepared, ranges, target, in_float, make_quantizer(target, moments))[0]
            for ranges in tables
        ]
        quality = quality_of(graphs, ends, target, course, task, work)
        own_engines = engines(graphs[-1])
        shares = (count_traffic(kernels, of) for kernels, of in zip(own_engines, half, strict=True))
        lines.append(["", name, *shares, in_int8(own_engines[0]), quality])
        print(member.name, *lines[-1][1:], flush=True)
    return lines


def quality_of(
    graphs: Sequence[Graph], ends: Sequence[int], target: Target, course: RecordedRun, task: Task, work: Path
) -> str:
    """Return the PSNR of samples in dB, mean and 5th percentile, which the folder stores. Graphs run the steps
    between `ends`.
    """

    def found() -> list[float]:
        opened = [target.runs(graph) for graph in graphs]
        steps = (b - a for a, b in pairwise(ends))
        psnr = course.decibels(course.run([each for each, n in zip(opened, steps, strict=True) for _ in range(n)]))
        return [float(psnr.mean()), float(np.percentile(psnr, 5))]

    code = digest_code((fewstep.measure, fewstep.plans, fewstep.runtime))
    every = [digest_of(graph) for graph in (task.prepared, *graphs)]
    mean, low = load_or_compute(
        work, list[float], found, every, ends, task.plan.name, len(course.sample), code, package_versions()
    )
    return f"{mean:.1f} / {low:.1f}"


def pool_ranges(own: RangesTable) -> RangesTable:
    """One range of each activation for all steps and channels."""
    tensors = {
        name: replace(ranges, per_group=(ranges.pooled,), by_channel=None) for name, ranges in own.tensors.items()
    }
    return replace(own, groups=(), tensors=tensors)


def engines_of(graph: Graph, folder: Path) -> tuple[Kernels, ...]:
    """The kernels of a graph's engine for each device."""
    return tuple(engine_of(graph, folder, device) for device in DEVICES)


def count_traffic(kernels: Kernels, of: Kernels | None = None) -> str:
    """The number of kernels, and the bytes that they move: as a fraction of another engine's, if there is one."""
    count, size = len(kernels.each), kernels.bytes or 0
    return f"{count}, {size / 1e6:.2f} MB" if of is None else f"{count}, {size / (of.bytes or 1):.2f}"


def in_int8(kernels: Kernels) -> str:
    """The fraction of the MACs that are counted."""
    return f"{100 * kernels.macs.get('int8', 0) / max(sum(kernels.macs.values()), 1):.0f} %"


def write_page(
    description: str | None,
    script: str,
    models: Sequence[str],
    head: Sequence[str],
    rows_of: Callable[[Member, Path, int], list[list[str]]],
) -> None:
    """Put the table of a script into the page, or print the rows of the requested models."""
    parser = parser_of(description)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help="default: all of the page")
    parser.add_argument("--seeds", type=int, default=32)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = [row for name in given.model or models for row in rows_of(KNOWN[name], given.work, given.seeds)]
    if given.model is None:
        put_part(PAGE, script, table(head, rows))
    else:
        print(table(head, rows))


if __name__ == "__main__":
    write_page(__doc__, SCRIPT, MODELS, HEAD, measure_forms)
