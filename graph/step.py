"""The fused form of a step: network, guidance, prediction and update in one graph; the state stays on the device.

The graph does in ONNX what `fewstep.runtime.execute` does on arrays; a test compares the two bit by bit. The update is
Mul and Add in float32, term by term. It is no MatMul, which engines may run in a shorter type (TF32, bfloat16).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fewstep.graph.builder import Builder
from fewstep.graph.graph import BATCH, GROUP, Graph, Node, Value, X, rename_inputs
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.shaping import check_shaping, lay_shaping
from fewstep.plans.plan import Step, Tensor
from fewstep.plans.shaping import Clip

STATE, NEXT, DRAW = "state_{}", "next_{}", "draw_{}"  # ports: the number of the row, or of the plan's draw


def fuse_step(body: Graph, step: Step, tensors: Sequence[Tensor] = ()) -> Graph:
    """One step of a plan as a graph.

    Inputs: `state_k` float32 [B, *x_shape] for each row of the state; the other inputs of the body, for all branches
    one after the other ([branches * B, ...], as the step lists them); `draw_d` standard normal for each of its draws.
    Outputs: `next_k`, the rows after the step, and what the body carries on. The step's range group is part of the
    graph. `tensors` are the plan's.
    """
    x = next(value for value in body.inputs if value.name == X)
    sample = replace(x, shape=(BATCH, *x.shape[1:]))
    check_shaping(step.shaping, x.shape[1:])
    states = [STATE.format(k) for k in range(len(step.update))]
    draws = [DRAW.format(number) for number in step.draws]
    table = Builder("step")

    u = table.combine(step.input, states, "u")
    outputs = _evaluate(table, body, u, len(step.branches), step.heads)
    columns = [*states, *outputs]
    if step.shaping is not None:
        values = [table.combine(row, columns, f"to_shape_{i}") for i, row in enumerate(step.shaping_of)]
        ends = (step.shaping.low, step.shaping.high) if isinstance(step.shaping, Clip) else ()
        columns.append(lay_shaping(table, step.shaping, values, [table.number(end) for end in ends], x.shape[1:]))
    columns += draws
    for k, row in enumerate(step.update):
        row_sum = table.combine(row, columns, f"row_{k}")
        for i, term in enumerate(term for term in step.terms if term.row == k):
            tensor = table.tensor(tensors[term.tensor], term.tensor)
            if term.column is not None:
                tensor = table.node("Mul", (columns[term.column], tensor), f"row_{k}_tensor_{i}")
            row_sum = table.node("Add", (row_sum, tensor), f"row_{k}_with_tensor_{i}")
        table.nodes.append(Node("Identity", (row_sum,), (NEXT.format(k),)))

    if any(value.name == GROUP for value in body.inputs):
        table.constants[GROUP] = np.asarray([step.group], np.int64)
    branches = BATCH if len(step.branches) == 1 else f"{len(step.branches)}*{BATCH}"
    beside_x = [replace(v, shape=(branches, *v.shape[1:])) for v in body.inputs if v.name not in (X, GROUP)]
    inputs = (
        *(replace(sample, name=name) for name in states),
        *beside_x,
        *(replace(sample, name=name) for name in draws),
    )
    results = tuple(Value(NEXT.format(k), x.dtype, sample.shape) for k in range(len(step.update)))
    results += tuple(replace(v, shape=(branches, *v.shape[1:])) for v in body.outputs[1:])
    constants = {**body.constants, **table.constants}
    return drop_unused(Graph("step", inputs, results, tuple(table.nodes), constants, optional=body.optional))


def _evaluate(table: Builder, body: Graph, u: str, branches: int, heads: int) -> list[str]:
    """The body on u, once for all branches; returns one output per branch and head."""
    stacked = u
    if branches > 1:
        table.nodes.append(Node("Concat", (u,) * branches, ("step/u_branches",), {"axis": 0}))
        stacked = "step/u_branches"
    table.nodes += [rename_inputs(node, {X: stacked}) for node in body.nodes]
    result = next(value.name for value in body.outputs)
    outputs = [result]
    if branches > 1:
        outputs = [f"step/output_{i}" for i in range(branches)]
        table.nodes.append(Node("Split", (result,), tuple(outputs), {"axis": 0, "num_outputs": branches}))
    if heads == 1:
        return outputs
    split = [tuple(f"{output}_head_{i}" for i in range(heads)) for output in outputs]
    for output, parts in zip(outputs, split, strict=True):
        table.nodes.append(Node("Split", (output,), parts, {"axis": 1, "num_outputs": heads}))
    return [part for parts in split for part in parts]
