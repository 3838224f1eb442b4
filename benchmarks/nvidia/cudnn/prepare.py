"""Prepare a denoiser on the CPU for a machine with a GPU: its fused graphs, and samples of some seeds."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.torch_sampler import check_plan
from benchmarks.nvidia.cudnn.bundles import int8_bundle
from benchmarks.nvidia.cudnn.executor import check_operations
from benchmarks.nvidia.cudnn.fused_groups import fuse_groups
from benchmarks.nvidia.cudnn.plans import body_graphs
from benchmarks.nvidia.cudnn.programs import BODY, FLOAT32, HALF, PreparedRun, StepRows, save_graph
from benchmarks.nvidia.int8_forms import BLOCK, FEW, KNOWN
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.half import to_half
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.measure.simulation import open_simulated
from fewstep.plans.any_plan import regroup
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from zoo.members import HELD_OUT

SEEDS = 16
# Of denoisers in which a difference in PSNR has a standard error above 0.3 dB with 16 seeds.
MORE_SEEDS = {"fashion_mnist": 64, "dit_flow": 64, "convnext_v_cosine": 64, "policy_unet1d": 256}


def prepare(name: str, work: Path, output: Path) -> Path:
    """Write a denoiser's folder, unless it exists. Raises UserError if torch has no call for one of its operations,
    so that a machine with a GPU never gets a graph that it cannot run.
    """
    folder, partly = output / name, output / f"{name}.partial"
    if folder.exists():
        return folder
    partly.mkdir(parents=True, exist_ok=True)
    bundle = int8_bundle(name, work)
    opened, graphs = open_bundle(bundle), body_graphs(bundle)
    for number, graph in enumerate(graphs):
        _save(fuse_groups(graph), partly / f"int8-{number}.npz")
    float32 = io.load(opened.graph(opened.body(FLOAT32).graph), root=bundle)
    _save(fuse_groups(drop_unused(to_half(float32, half_type(graphs[0])))), partly / HALF)
    body = opened.manifest.bodies[BODY]
    run = record_member(name, bundle, body.groups)
    graph_of = [body.graph_index(group) for group in range(run.groups)]
    sessions = [open_simulated(graph) for graph in graphs]
    simulated = run.final_samples(run.run([sessions[number] for number in graph_of]))
    prepare_run(run, graph_of, {FLOAT32: run.sample, BODY: simulated}).save(partly)
    partly.rename(folder)
    return folder


def _save(graph: Graph, file: Path) -> None:
    check_operations(graph)
    save_graph(graph, file)


def half_type(graph: Graph) -> np.dtype[Any]:
    """The type of 16 bits around the integers of a body."""
    return BFLOAT16 if BFLOAT16 in {constant.dtype for constant in graph.constants.values()} else FLOAT16


def record_member(name: str, bundle: Path, groups: tuple[float, ...]) -> RecordedRun:
    """Return the float32 run of some held-out seeds, with the range groups of the int8 body."""
    member, seeds = KNOWN[name], FEW if name == BLOCK.name else MORE_SEEDS.get(name, SEEDS)
    with load(bundle, body=FLOAT32, backend=OnnxRuntime()) as sampler:
        plan = sampler.compile(member.plan, member.guidance)
        check_plan(plan)
        return record_run(sampler, regroup(plan, {DENOISER: groups}), range(seeds), member.rows(seeds, HELD_OUT))


def prepare_run(run: RecordedRun, graph_of: list[int], expected: dict[str, np.ndarray]) -> PreparedRun:
    """The numbers of a recorded run."""
    plan = run.plan
    steps = tuple(StepRows(step.input, step.update, graph_of[step.group]) for step in plan.steps)
    branches = len(plan.steps[0].branches)
    noise, feeds = run.batch.draw_noise(0), tuple(dict(fed) for (fed,) in run.feeds)
    return PreparedRun(run.ports[0], plan.start, steps, plan.output, branches, noise, feeds, expected)
