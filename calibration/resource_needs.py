"""Estimates of the memory and disk space of a calibration, from its task."""

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.moments import moment_bytes
from fewstep.calibration.ranges.row_observer import are_large, row_bytes
from fewstep.calibration.replaced_graphs import COMPANIONS
from fewstep.calibration.task import Task
from fewstep.graph.files import io
from fewstep.graph.files.weights import weight_bytes
from fewstep.graph.graph import Graph
from fewstep.graph.resource_needs import Needs
from fewstep.measure.rollouts.trajectories import BATCH
from fewstep.runtime.backends import RUN_ONCE
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.platforms import ONNXRUNTIME
from fewstep.runtime.bundle.reading import Bundle

ALONE = 200 * 10**6  # bytes of the command and its engines
LOWERING_PEAK = 1.5  # peak in multiples of the float weights: while a graph is lowered, or in OpenVINO
LEAST_REPLACED = 2**12  # bytes of a graph; a smaller one has no weights to store in int8
WORKER = 1.25  # multiple of the float weights: those that onnxruntime packs, and mapped pages


def estimate_needs(task: Task, workers: int = 0) -> Needs:
    """Estimate the peak memory, and the disk space of all bodies.

    workers: number of processes on this machine.
    """
    weights = weight_bytes(task.prepared) + _prologue_bytes(task.sampler.bundle)
    tensors = task.tensors
    is_large = are_large(task.prepared, tensors)
    rows = 1 if is_large else 2 * max(len(step.branches) for step in task.plan.steps)  # one counted, one computed
    sample = rows * row_bytes(task.prepared, tensors)
    at_once = 1 if task.is_large else BATCH
    moments = sum(moment_bytes(ops, task.prepared) for ops in task.ops_with_weights)
    here = LOWERING_PEAK * weights + 2 * moments + at_once * sample + ALONE  # 2 moments: the sum, and one trajectory's
    others = workers * (WORKER * weights + moments + sample + ALONE)
    bodies = [body_bytes(task.prepared, task.operations, target) for target in task.targets]
    bodies += [size for target in task.targets for size in _replaced_bytes(task, target)]
    files = sum(2 if size > io.EXTERNAL_ABOVE else 1 for size in bodies)
    return Needs(round(here + others), sum(bodies), files + 2)  # 2: ranges and plan


def body_bytes(prepared: Graph, operations: tuple[str, ...], target: Target) -> int:
    """Return the approximate size in bytes of the weights of an int8 graph: 1 byte per weight of the operations in
    `operations`, and the size of the target's float type for all others."""
    lowered = {name for node in prepared.nodes if node.output in operations for name in node.inputs[1:2]}
    float_size = target.scheme.scale_dtype.itemsize
    return sum(
        array.size * (1 if name in lowered else float_size if array.dtype.kind == "f" else array.itemsize)
        for name, array in prepared.constants.items()
    )


def _replaced_bytes(task: Task, target: Target) -> list[int]:
    """Return the bytes of the graphs that a body may run instead of shared ones, each with a byte for each weight."""
    if target.scheme.weight_bits is None and target.platform.backend != ONNXRUNTIME and not target.companions:
        return []
    bundle = task.sampler.bundle
    graphs = shared_graphs(bundle.manifest)
    entries = [graphs[name] for name in (*RUN_ONCE, *COMPANIONS) if name in graphs]
    sizes = [sum((bundle.path / file).stat().st_size for file in (graph.file, *graph.data)) for graph in entries]
    return [size // 4 for size in sizes if size >= LEAST_REPLACED]


def _prologue_bytes(bundle: Bundle) -> int:
    """Return the size in bytes of the files of prologue and conditioner, without files that they share with the
    body."""
    graphs = (bundle.manifest.conditioner, bundle.manifest.prologue)
    files = {file for graph in graphs if graph is not None for file in (graph.file, *graph.data)}
    shared = set(bundle.manifest.bodies["float32"].graph.data)
    return sum((bundle.path / file).stat().st_size for file in files - shared)
