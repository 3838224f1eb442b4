"""The steps of a plan one after the other, for inference engines that have no Loop. Their weights are shared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fewstep.graph.bake.ahead import Ahead
from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.carried import PORT, CarriedBank
from fewstep.graph.bake.draws import Draws
from fewstep.graph.bake.hold import Held
from fewstep.graph.bake.loop import Network
from fewstep.graph.builder import Builder
from fewstep.graph.graph import GROUP, Graph, Value
from fewstep.graph.step import DRAW, NEXT, STATE, fuse_step
from fewstep.plans.plan import Plan, Step


def lay_unrolled(
    outer: Builder,
    batch: RunBatch,
    plan: Plan,
    networks: Sequence[Network],
    network_of: Callable[[Step], int],
    aheads: Mapping[str, Ahead],
    draws: Draws,
    held: Held | None,
    state: Sequence[str],
    banks: Sequence[CarriedBank] = (),
) -> list[str]:
    """Add all steps; returns the names of the state behind the last. `state`: K tensors [B, ...]."""
    rows = list(state)
    for number, step in enumerate(plan.steps):
        network, ahead = networks[network_of(step)], aheads[step.network]
        if held is not None:
            rows[held.rows[number]] = _held(outer, held, number, draws, rows[held.rows[number]])
        fused = fuse_step(network.graph, step, plan.tensors)
        feeds = {STATE.format(k): row for k, row in enumerate(rows)}
        feeds |= {DRAW.format(each): draws.lay(outer, each) for each in step.draws}
        for tensor in network.entry.inputs:
            if tensor.role not in ("x", "group", PORT):
                feeds[tensor.name] = _input(outer, batch, step, number, tensor.name, tensor.role, ahead)
        for bank in banks:
            places = (bank.first[number], bank.first[number] + len(step.branches))
            start, end = (outer.constant(np.array([place], np.int64), f"number_{place}") for place in places)
            feeds[bank.taken.name] = bank.read(outer, (start, end), f"{bank.taken.name}_{number}")
        under = f"step_{number}"
        if GROUP in fused.constants:  # the one number that differs from step to step
            feeds[GROUP] = f"{under}/{GROUP}"
            outer.constants[feeds[GROUP]] = fused.constants[GROUP]
            fused = _with_group_as_input(fused)
        outputs = outer.place(fused, feeds, under, network.name, batch=f"batch_{len(step.branches)}")
        rows = [outputs[NEXT.format(k)] for k in range(plan.rows)]
        for bank in banks:
            if bank.writes[number]:
                name, made = f"{bank.returned.name}_{number}", outputs[bank.returned.name]
                bank.parts.append(bank.apart(outer, made, len(step.branches), name))
    return rows


def _held(outer: Builder, held: Held, number: int, draws: Draws, row: str) -> str:
    """The row of x before step `number`, held."""
    scales = [outer.number(each[number]) for each in (held.alphas, held.sigmas)]
    noise = draws.lay(outer, held.draws[number]) if held.draws else ""
    return held.lay(outer, row, scales, noise, f"hold_{number}")


def _with_group_as_input(graph: Graph) -> Graph:
    group = Value(GROUP, graph.constants[GROUP].dtype, graph.constants[GROUP].shape)
    rest = {name: value for name, value in graph.constants.items() if name != GROUP}
    return replace(graph, inputs=(*graph.inputs, group), constants=rest)


def _input(outer: Builder, batch: RunBatch, step: Step, number: int, name: str, role: str, ahead: Ahead) -> str:
    """What the network reads at an input in a step."""
    count = len(step.branches)
    if role in ("time", "to"):
        time = np.full((1,), step.time if role == "time" else step.to, np.float32)
        shape = outer.node("Shape", (batch.places(count),), f"shape_{number}_{name}")
        return outer.node("Expand", (outer.constant(time, f"{role}_{number}"), shape), f"{role}_{number}_now")
    if name in ahead.by_pair:
        source, first = ahead.by_pair[name], ahead.first_pair[number]
    else:
        source, first = ahead.by_branch[name], ahead.branches.index(step.branches[0])
        if step.branches == ahead.branches:
            return source
    start, end = (batch.times(at) for at in (first, first + count))
    axis = outer.constant(np.array([0], np.int64), "axis_0")
    return outer.node("Slice", (source, start, end, axis), f"{name}_{number}")
