"""Take the mean error of each channel out of int8 bodies: `python -m lab.bias_trial MEMBER PLAN --work DIR`.

Means are over 64 seeds, the steps of a graph and positions, of the output of each operation with weights, after its
bias. Operations are corrected in eight parts, in order, each in the body whose earlier parts are corrected. The body's
own 8 judge seeds would decide; 64 others judge.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import options
from fewstep.calibration.body_maker import BodyMaker
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.calibrated_body import CalibratedBody
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.recipe import open_graphs
from fewstep.calibration.ranges.observe import channel_axes, expose_tensors
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.selection import match_weighted_op
from fewstep.graph.session import open_session
from fewstep.graph.types import infer_types
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SELECTION_SEEDS
from fewstep.plans.any_plan import check_compiled
from fewstep.runtime.backends import Arrays, LoadedGraph
from lab.zoo import bundles
from lab.zoo.members import BY_NAME

MEASURED, JUDGED, PARTS = SELECTION_SEEDS[200:264], SELECTION_SEEDS[300:364], 8
OTHER_SCALE = 0.5  # a shift of more deviations than this is no error: the body holds the tensor at another scale
make_body = BodyMaker.make_body


def add_biases(graph: Graph, biases: Mapping[str, Array]) -> Graph:
    """Return the graph with constants added to tensors."""
    nodes = []
    for node in graph.nodes:
        found = [name for name in node.outputs if name in biases]
        nodes.append(replace(node, outputs=tuple(f"{each}_raw" if each in found else each for each in node.outputs)))
        nodes += [Node("Add", (f"{each}_raw", f"{each}_mean"), (each,), name=f"{each}_corrected") for each in found]
    return graph.with_nodes(nodes, {**graph.constants, **{f"{name}_mean": bias for name, bias in biases.items()}})


def biased_tensors(prepared: Graph) -> dict[str, int]:
    """Return the outputs of operations with weights, after their bias, and their channel axes."""
    axes, tensors = channel_axes(prepared), {}
    biased = {name: n.output for n in prepared.nodes if n.op == "Add" for name in n.inputs}
    constant = {n.output for n in prepared.nodes if n.op == "Add" and set(n.inputs) & set(prepared.constants)}
    for op in filter(None, (match_weighted_op(node, prepared) for node in prepared.nodes)):
        after = biased.get(op.name)
        tensors[after if after in constant else op.name] = axes[op.name]
    return tensors


def mean_outputs(graph: LoadedGraph, feeds: list[Arrays], axes: Mapping[str, int]) -> dict[str, tuple[Array, float]]:
    """Return the mean of each channel and the deviation of each tensor."""
    made: dict[str, list[tuple[Array, float]]] = {name: [] for name in axes}
    for each in feeds:
        outputs = graph(each)
        for name, axis in axes.items():
            array = np.asarray(outputs[name], np.float64)
            others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
            made[name].append((array.mean(axis=others, keepdims=True), float(array.std())))
    return {
        name: (np.mean([mean for mean, _ in pairs], axis=0), float(np.mean([deviation for _, deviation in pairs])))
        for name, pairs in made.items()
    }


def correct(graph: Graph, prepared: Graph, target: Target, feeds: list[Arrays]) -> Graph:
    """Return the int8 graph without the mean errors of its channels."""
    inner = {name for node in graph.nodes for name in node.outputs} - {value.name for value in graph.outputs}
    axes, types = (
        {name: axis for name, axis in biased_tensors(prepared).items() if name in inner},
        infer_types(prepared),
    )
    biases: dict[str, Array] = {}
    for part in np.array_split(np.array(list(axes)), PARTS):
        chosen = {str(name): axes[str(name)] for name in part}
        exact = mean_outputs(open_session(expose_tensors(prepared, chosen)), feeds, chosen)
        corrected = add_biases(graph, biases)
        outputs = corrected.outputs + tuple(types.values[name] for name in chosen)
        rounded = mean_outputs(target.runs(replace(corrected, outputs=outputs)), feeds, chosen)
        for name, (mean, deviation) in exact.items():
            shift = mean - rounded[name][0]
            if np.abs(shift).max() <= OTHER_SCALE * deviation:
                biases[name] = shift.astype(np.float32)
    return add_biases(graph, biases)


def judge_correction(maker: BodyMaker, target: Target) -> CalibratedBody:
    """Return the body that calibration makes. Print what the correction changes."""
    body = make_body(maker, target)
    task, plan, graphs = maker.task, check_compiled(maker.runs.plan), body.recipe.graphs

    def record(seeds: range) -> RecordedRun:
        return record_run(task.with_all_networks(task.sampler), plan, seeds, task.conditions, network=task.network)

    measured, first, corrected = record(MEASURED), 0, []
    for until, lowered in graphs:
        states = [state for state in measured.float_states if first <= state.step.group < until]
        feeds, first = [measured.body_feeds(state) for state in states], until
        corrected.append((until, correct(lowered.graph, task.prepared, target, feeds)))
    plain = [(until, lowered.graph) for until, lowered in graphs]
    for seeds in (BODY_SEEDS, JUDGED):
        run = record(seeds)
        before, after = (run.quality(run.run(open_graphs(each, target))) for each in (plain, corrected))
        gains = np.asarray(after.values) - np.asarray(before.values)
        error = float(gains.std(ddof=1)) / len(gains) ** 0.5
        quality = {"before": (before.mean, before.p5), "after": (after.mean, after.p5)}
        print(json.dumps({"target": target.name, "seeds": len(gains), **quality, "gain": gains.mean(), "error": error}))
    return body


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("member", choices=BY_NAME)
    parser.add_argument("plan")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    member = BY_NAME[given.member]
    BodyMaker.make_body = judge_correction  # type: ignore[method-assign]
    bundle = bundles.exported(member, given.work)
    calibrate(bundles.calibration(member, bundle, given.plan, ("cpu-x86", "openvino"), 8))


if __name__ == "__main__":
    main()
