"""Split a baked run into three parts, for a program that runs the steps itself: before the steps, one step, after the
steps.

The step is the body of the Loop, with the number of the step as an input. All its other inputs except the state are the
same in every step. So an engine can keep state, conditions and noise on its device, and receives only the number
between two steps.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fewstep.graph.bake.assemble import BakedRun
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.index import index
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.graph_entry import NEXT


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of a run, as one graph that is run `count` times.

    graph: one step. Its inputs are `number`, `state` and `constant_inputs`, its outputs `nexts`.
    number: the name of the input int64 [] with the index of the step, from 0 to count - 1.
    state, nexts: the names of the K rows of the state [B, ...], before and after the step.
    after: the names of these rows in the run, after the last step.
    """

    graph: Graph
    count: int
    number: str
    state: tuple[str, ...]
    nexts: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def constant_inputs(self) -> tuple[str, ...]:
        """The inputs that are the same in each step."""
        return tuple(v.name for v in self.graph.inputs if v.name not in (self.number, *self.state))


@dataclass(frozen=True)
class SplitRun:
    """A baked run, split into several graphs.

    before: the graph that computes, from the run's inputs, the first state and those tensors that steps read and that
        are not inputs of the run.
    start: the names of the rows of the first state.
    after: the graph that computes the run's output from the last state.
    """

    before: Graph
    start: tuple[str, ...]
    steps: tuple[Steps, ...]
    after: Graph


def split_run(run: BakedRun) -> SplitRun:
    """Split a run with Loops and a dynamic batch. Raises UserError for an unrolled run or a fixed batch."""
    graph = run.graph
    if run.carried:
        raise UserError(
            f"the run carries {run.carried[0].name.removeprefix(NEXT)!r} to the next run",
            "run the bundle, or the baked file",
        )
    loops = [node for node in graph.nodes if node.op == "Loop"]
    if not loops or any(isinstance(node.attributes["body"], Graph) is False for node in loops):
        raise UserError("an unrolled run has no repeated step", "bake without --unroll")
    if any(not any(isinstance(size, str) for size in value.shape) for value in graph.inputs):
        raise UserError("a run with a fixed batch cannot be split at its Loops", "bake without --batch")
    after_loops = index(graph).dependents(name for node in loops for name in node.outputs)
    not_after = tuple(node for node in graph.nodes if after_loops.isdisjoint(node.outputs))
    inferred = infer_types(replace(graph, nodes=not_after, outputs=())).values
    described = {value.name: value for value in (*graph.inputs, *graph.described)}
    types = {name: _name_free_axes(value) for name, value in {**inferred, **described}.items()}
    steps = tuple(_extract_loop_body(graph, node, types) for node in loops)
    first, last = loops[0], loops[-1]
    start = first.inputs[2:]
    read = {name for step in steps for name in step.constant_inputs}
    last_nodes = _select_nodes(graph, [value.name for value in graph.outputs], last.outputs)
    unmade = {*graph.constants, *(value.name for value in graph.optional)}  # optional inputs default to zeros
    read |= {name for name in _free_names(last_nodes, unmade) if name not in last.outputs}
    inputs = {value.name for value in graph.inputs}
    first_nodes = _select_nodes(graph, [*start, *sorted(read)])
    wanted = [types[name] for name in (*start, *sorted(read)) if name not in inputs]
    rest = [types[name] for name in dict.fromkeys((*last.outputs, *sorted(_free_names(last_nodes, unmade))))]
    return SplitRun(
        before=drop_unused(replace(graph, name="before", nodes=first_nodes, outputs=tuple(wanted))),
        start=start,
        steps=steps,
        after=drop_unused(replace(graph, name="after", nodes=last_nodes, inputs=tuple(rest))),
    )


def fix_shapes(steps: Steps, values: Mapping[str, Array]) -> Graph:
    """Return the step with fixed shapes for these inputs, so that an engine plans for one size only. Its outputs have
    the shapes of the state."""
    graph = steps.graph
    inputs = tuple(replace(v, shape=values[v.name].shape) if v.name in values else v for v in graph.inputs)
    shapes = {after: values[name].shape for after, name in zip(steps.nexts, steps.state, strict=True)}
    return replace(
        graph, inputs=inputs, described=(), outputs=tuple(replace(v, shape=shapes[v.name]) for v in graph.outputs)
    )


def _name_free_axes(value: Value) -> Value:
    """Return the value with a unique name for each unknown axis."""
    shape = tuple(f"{value.name}.{axis}" if size == "?" else size for axis, size in enumerate(value.shape))
    return replace(value, shape=shape)


def _extract_loop_body(graph: Graph, loop: Node, types: Mapping[str, Value]) -> Steps:
    """Return the body of a Loop as a graph of its own. Tensors that it reads from the outer graph become inputs or
    constants."""
    body: Graph = loop.attributes["body"]
    number, goes_on, *rows = body.inputs
    nexts = body.outputs[1:]
    nodes = _select_nodes(body, [value.name for value in nexts])
    read = _free_names(nodes, body.constants) - {value.name for value in body.inputs}
    constants = {name: graph.constants[name] for name in read if name in graph.constants}
    optional = tuple(value for value in graph.optional if value.name in read)
    outer = [types[name] for name in sorted(read - {value.name for value in optional}) if name not in constants]
    alone = Graph(
        name=loop.name or "step",
        inputs=(number, *rows, *outer),
        outputs=tuple(nexts),
        nodes=nodes,
        constants={**body.constants, **constants},
        extents=body.extents,
        described=body.described,
        optional=optional,
    )
    count = int(graph.constants[loop.inputs[0]])
    return Steps(alone, count, number.name, tuple(v.name for v in rows), tuple(v.name for v in nexts), loop.outputs)


def _select_nodes(graph: Graph, wanted: Iterable[str], given: Collection[str] = ()) -> tuple[Node, ...]:
    """Return the nodes that compute `wanted` from `given`, the inputs and constants."""
    needed = index(graph).dependencies(wanted, given)
    return tuple(node for node in graph.nodes if not needed.isdisjoint(node.outputs))


def _free_names(nodes: Sequence[Node], constants: Iterable[str]) -> set[str]:
    """Return the names of tensors that nodes read, except constants and outputs of these nodes."""
    outputs = {name for node in nodes for name in node.outputs}
    return {name for node in nodes for name in node.inputs if name} - outputs - {*constants}
