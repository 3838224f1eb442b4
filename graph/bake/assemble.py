"""Assemble the graph of a whole run: inputs, conditions, prologue, steps, and the decoder if the bundle has one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.carried import banks_of
from fewstep.graph.bake.draws import DRAWS, NOISE
from fewstep.graph.bake.features import features_of
from fewstep.graph.bake.hold import HELD, MASK, HeldAs, HoldInputs, hold_for_plan
from fewstep.graph.bake.loop import add_loop, add_step
from fewstep.graph.bake.metadata import BakedPort
from fewstep.graph.bake.run_parts import BakedNetwork, Run
from fewstep.graph.bake.run_setup import add_batch_check, add_conditions, add_limit_check, add_setup
from fewstep.graph.bake.sample_space import space_builder
from fewstep.graph.bake.step_alignment import stretches
from fewstep.graph.bake.step_numbers import ConstantNumbers
from fewstep.graph.builder import Builder
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import select_network
from fewstep.runtime.kinds.sizes import free_shape, free_x_shape

SAMPLE, PICTURE = "sample", "picture"  # names of the output; "image" is an input of some plans


@dataclass(frozen=True)
class Parts:
    """The graphs of a bundle that a run consists of.

    networks: the body's graphs of all networks.
    network_of: the index of a step's graph among `networks`, for each step.
    setup: the "conditioner" and "prologue" of each network.
    text, decoder: the companions that are baked in; None for those that are not.
    nulls: null values that are stored in files.
    """

    networks: Sequence[BakedNetwork]
    network_of: Callable[[Any], int]
    setup: Mapping[str, Mapping[str, Graph]]
    text: Graph | None = None
    decoder: Graph | None = None
    nulls: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class BakedRun:
    """The graph of a run, and the meanings of its inputs. `sizes` gives, by axis name, the sizes of those axes that
    must not have size 1 in the test vector."""

    graph: Graph
    inputs: tuple[BakedPort, ...]
    output: BakedPort
    draws: tuple[int, ...]
    carried: tuple[BakedPort, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


def assemble(
    manifest: Manifest, plan: AnyPlan, parts: Parts, batch_size: int | None, unroll: bool, hold: HeldAs
) -> BakedRun:
    """Return the run of a plan as one graph. `batch_size` None keeps the batch dynamic. With `unroll`, and for a plan
    with light steps, every step is written out instead of a Loop."""
    held = hold_for_plan(plan, hold)
    outer, space = Builder("run"), space_builder(manifest.space)
    draws = space.find_draws(plan, () if held is None else held.draws)
    row = (BATCH, *free_x_shape(manifest))
    sample = (BATCH, *(plan.shape or row[1:]))
    features = features_of(plan)
    unroll = unroll or features is not None
    banks = banks_of(plan, manifest.carried)
    starts = [port for port in space.ports(draws, sample) if port.name not in plan.given]
    ports = (*starts, *_ports(manifest, plan, parts, held, sample), *(bank.input_port for bank in banks))
    output = BakedPort(SAMPLE, SAMPLE, sample, manifest.space.dtype)
    if parts.decoder is not None:
        output = BakedPort(PICTURE, PICTURE, (BATCH, *parts.decoder.outputs[0].shape[1:]), "float32")
    check_names((*ports, output, *(bank.output_port for bank in banks)))
    tensors = {port.name: port.name for port in ports}
    is_hidden = batch_size is not None and not unroll
    if is_hidden:
        tensors = _hide_batch(outer, [value_of(port) for port in ports])
        draws = replace(draws, noise=tensors.get(NOISE, ""), rest=tensors.get(DRAWS, ""))
    if held is not None:
        held = replace(held, value=tensors[HELD], mask=tensors[MASK])
    source = tensors[next(port.name for port in ports if port.name != DRAWS)]
    for bank in banks:
        bank.source = tensors[bank.input_port.name]
    batch = RunBatch(outer, None if is_hidden else batch_size, source)
    if parts.text is not None:
        tensors |= outer.inline_graph(
            parts.text, {value.name: tensors[value.name] for value in parts.text.inputs}, "text", batch=BATCH
        )
    for condition in manifest.conditions:
        tensors[condition.name] = add_limit_check(outer, condition, tensors[condition.name])
        if batch_size is None:  # otherwise the shape of the input says it
            tensors[condition.name] = add_batch_check(outer, batch, condition.name, tensors[condition.name])
    conditions = add_conditions(outer, manifest, plan, tensors, parts.nulls)
    setup = {
        name: add_setup(outer, batch, select_network(manifest, name), graphs, plan, conditions, name)
        for name, graphs in parts.setup.items()
    }
    state, draws = space.begin(outer, plan, draws, tensors)
    run = Run(outer, batch, plan, parts.networks, parts.network_of, setup, draws, held, banks, space, row, features)
    state = add_unrolled_steps(run, state) if unroll else _add_loops(run, state)
    result = space.finish(outer, plan, state)
    if held is not None:
        result = held.finish(outer, result)
    if parts.decoder is not None:
        (result,) = outer.inline_graph(
            parts.decoder, {parts.decoder.inputs[0].name: result}, "decoder", batch=BATCH
        ).values()
    outer.identity(result, output.name)
    for bank in banks:
        bank.finish(outer)
    carried = tuple(_fix_batch(bank.output_port, batch_size) for bank in banks)
    inputs = tuple(_fix_batch(port, batch_size) for port in ports)
    output = _fix_batch(output, batch_size)
    extents = {name: extent for network in parts.networks for name, extent in network.graph.extents.items()}
    graph = outer.graph([*map(value_of, inputs)], [*map(value_of, (output, *carried))], extents)
    graph = replace(graph, opset=max(network.graph.opset for network in parts.networks))
    return BakedRun(graph, inputs, output, draws.later, carried)


def _add_loops(run: Run, state: list[str]) -> list[str]:
    """Add one Loop for each range of steps that one graph can run. Return the names of the state rows after the last
    step."""
    steps: Sequence[Any] = run.plan.steps
    rows = [0] * len(steps) if run.held is None else run.held.rows
    bank_writes = [
        (len(step.branches) if run.banks else 0, [bank.writes[at] for bank in run.banks])
        for at, step in enumerate(steps)
    ]
    kinds = [*zip(map(run.network_of, steps), rows, bank_writes, strict=True)]
    at, breaks = 0, [number > 0 and kinds[number - 1] != kind for number, kind in enumerate(kinds)]
    for stretch in stretches(run.plan, breaks, run.space.align):
        state = add_loop(run, stretch, at, state)
        at += len(stretch.steps)
    return state


def add_unrolled_steps(run: Run, state: Sequence[str]) -> list[str]:
    """Add all steps; return the names of the state after the last step. state: K tensors [B, ...]."""
    rows = list(state)
    steps: Sequence[Any] = run.plan.steps
    for at, step in enumerate(steps):
        inner, stretch = Builder(f"step_{at}"), run.space.align(run.plan, [step])
        assert stretch is not None, "a single step always aligns with itself"
        rows, made = add_step(run, inner, ConstantNumbers(inner), run.batch, stretch, at, rows)
        for bank in run.banks:
            if bank.writes[at]:
                name = bank.output_port.name
                bank.parts.append(bank.split_branches(inner, made[name], len(step.branches), name))
        if run.features is not None and step.carry:
            run.features.write(step, made)
        run.outer.add(inner)
    return rows


def _ports(
    manifest: Manifest,
    plan: AnyPlan,
    parts: Parts,
    held: HoldInputs | None,
    sample: tuple[int | str, ...],
) -> tuple[BakedPort, ...]:
    """Return the inputs of the file, except the noise, draws or tokens from which a sample starts."""
    ports = list[BakedPort]()
    encoded = set() if parts.text is None else {value.name for value in parts.text.outputs}
    for condition in manifest.conditions:
        if condition.name not in encoded:
            shape = (sample[0], *free_shape(condition.shape, condition.follows))
            ports.append(BakedPort(condition.name, "condition", shape, condition.dtype))
    if manifest.text is not None and encoded:
        for tensor in manifest.text.graph.inputs:
            ports.append(BakedPort(tensor.name, tensor.role, (sample[0], *tensor.shape[1:]), tensor.dtype))
    conditions = {condition.name for condition in manifest.conditions} | encoded
    for condition in manifest.conditions:
        if condition.name in plan.given and condition.shape != manifest.x_shape:
            raise UserError(
                f"the plan starts from {condition.name!r}, and the condition of that name has another shape: a file "
                "has one input of a name",
                "sample step by step, or export the model again with another name of the condition",
            )
    ports += [BakedPort(name, "given", sample, "float32") for name in plan.given if name not in conditions]
    if held is not None:
        ports += [BakedPort(HELD, "held", sample, "float32"), BakedPort(MASK, "hold", sample, "float32")]
    return tuple(ports)


def check_names(ports: Sequence[BakedPort]) -> None:
    """Raise UserError if two inputs or outputs of the baked file have the same name."""
    by_name: dict[str, BakedPort] = {}
    for port in ports:
        other = by_name.setdefault(port.name, port)
        if other is not port:
            raise UserError(
                f"the name {port.name!r} would be in the file twice, as its {other.meaning} and as its {port.meaning}",
                f"export the model again, with a name other than {port.name!r}",
            )


def _hide_batch(outer: Builder, values: Sequence[Value]) -> dict[str, str]:
    """Pass the inputs of a fixed batch through a Loop of one iteration, so that engines do not know their batch; return
    them by name.

    An engine that knows the batch folds and fuses more, and then its results differ in bits from the bundle's graphs.
    """
    inner, flag = Builder("given"), np.dtype(bool)
    rows = [replace(value, name=f"given/{value.name}_in") for value in values]
    inputs = [
        replace(value, name=inner.node("Identity", (row.name,), value.name))
        for row, value in zip(rows, values, strict=True)
    ]
    goes_on = inner.node("Identity", ("given/goes_on",), "still_goes_on")
    body = inner.graph(
        [Value("given/number", np.dtype(np.int64), ()), Value("given/goes_on", flag, ()), *rows],
        [Value(goes_on, flag, ()), *inputs],
        {},
    )
    once, true = outer.constant(np.array(1, np.int64), "once"), outer.constant(np.array(True), "goes_on")
    names = {value.name: f"{outer.prefix}/{value.name}" for value in values}
    outer.nodes.append(Node("Loop", (once, true, *names), tuple(names.values()), {"body": body}, "given"))
    outer.described |= {names[value.name]: replace(value, name=names[value.name]) for value in values}
    return names


def _fix_batch(port: BakedPort, batch: int | None) -> BakedPort:
    """Return the input or output with this batch size; None keeps the batch dynamic."""
    shape = tuple(batch if size == BATCH and batch is not None else size for size in port.shape)
    return msgspec.structs.replace(port, shape=shape)


def value_of(port: BakedPort) -> Value:
    return Value(port.name, np.dtype(port.dtype), port.shape)
