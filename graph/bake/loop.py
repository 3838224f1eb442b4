"""Run aligned steps as an ONNX Loop: one body, which looks up its numbers by the number of the step.

For tokens, the update is in `reveal.py`. For other plans it is Mul and Add in float32, term by term, as in
`fewstep.runtime.sampling.execute`. It is not a MatMul, because engines may compute a MatMul in a less precise type
(TF32, bfloat16).

The coefficients are not constants of the body. Otherwise an engine could fold them into the network's first or last
layer, which would change bits. For the same reason the network's output is multiplied by its coefficient even if that
is 1: engines fuse an Add that directly follows a convolution. Shapes in the body come from the state, whose batch is a
symbol there even if it is fixed outside. With a known batch, engines would fuse more than in the bundle's own graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.carried import PORT
from fewstep.graph.bake.hold import HoldInputs
from fewstep.graph.bake.run_parts import BakedNetwork, Run
from fewstep.graph.bake.step_alignment import NO_TENSOR, AlignedSteps, StepRange
from fewstep.graph.bake.step_numbers import StepNumbers
from fewstep.graph.builder import Builder, Coefficient
from fewstep.graph.files import weights
from fewstep.graph.graph import BATCH, Array, Node, Value
from fewstep.graph.shaping import lay_shaping
from fewstep.plans.plan import Plan, tensor_values
from fewstep.plans.shaping import Clip


def add_loop(run: Run, stretch: StepRange, at: int, state: Sequence[str]) -> list[str]:
    """Add the steps of a range that begins with step `at`; return the names of the state after it. All steps must write
    the same banks, with the same number of branches.

    state: K tensors [B, ...].
    """
    name, outer, network = f"steps_from_{at}", run.outer, run.network(stretch.steps[0])
    inner = Builder(name)
    rows = [f"{name}/state_{k}" for k in range(len(state))]
    numbers, inner_batch = StepNumbers(inner), RunBatch(inner, None, rows[0])
    nexts, returned = add_step(run, inner, numbers, inner_batch, stretch, at, rows)
    inner.nodes[:0] = numbers.look_up()
    outer.constants |= _take_int8_codes(inner)
    outer.optional |= inner.optional  # a Loop's body cannot have optional inputs, so it reads the outer graph's
    inner.optional = {}
    goes_on = inner.node("Identity", (f"{name}/goes_on",), "still_goes_on")
    branches, written = len(stretch.branches), [bank for bank in run.banks if bank.writes[at]]
    made = [
        bank.split_branches(inner, returned[bank.output_port.name], branches, bank.output_port.name) for bank in written
    ]
    x = next(tensor for tensor in network.entry.inputs if tensor.role == "x")
    sample = replace(next(value for value in network.graph.inputs if value.name == x.name), shape=run.sample)
    whole, flag = np.dtype(np.int64), np.dtype(bool)
    body = inner.graph(
        [
            Value(numbers.number, whole, ()),
            Value(f"{name}/goes_on", flag, ()),
            *(replace(sample, name=row) for row in rows),
        ],
        [
            Value(goes_on, flag, ()),
            *(replace(sample, name=row) for row in nexts),
            *(bank.value(each, branches) for bank, each in zip(written, made, strict=True)),
        ],
        network.graph.extents,
    )
    count = outer.constant(np.array(len(stretch.steps), np.int64), f"{name}_steps")
    true = outer.constant(np.array(True), "goes_on")
    after = tuple(f"{outer.prefix}/{name}_state_{k}" for k in range(len(state)))
    outputs = tuple(f"{outer.prefix}/{name}_{bank.output_port.name}" for bank in written)
    outer.nodes.append(Node("Loop", (count, true, *state), (*after, *outputs), {"body": body}, name))
    for bank, each in zip(written, outputs, strict=True):  # stacked over steps
        shape = outer.constant(
            np.array([branches * len(stretch.steps), -1, *bank.tensor.shape], np.int64), f"{each}_shape"
        )
        bank.parts.append(outer.node("Reshape", (each, shape), f"{name}_{bank.output_port.name}_rows"))
    outer.described |= {row: replace(sample, name=row) for row in after}
    return [*after]


def add_step(
    run: Run, inner: Builder, numbers: StepNumbers, batch: RunBatch, stretch: StepRange, at: int, rows: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Add the nodes of one step of a range to `inner`. Return the names of the state rows after it, and of all outputs
    of the network."""
    step = _Step(run, inner, numbers, batch, stretch, at)
    return run.space.advance(step, run.outer, run.plan, run.draws, rows), step.made


def _take_int8_codes(inner: Builder) -> dict[str, Array]:
    """Remove the large int8 constants from the body of a Loop and return them, to be stored in the outer graph.

    onnxruntime holds constants of a Loop's body up to three times, and those of the outer graph once. Float constants
    stay in the body, since onnxruntime needs them there for fusions that change the results. int8 kernels accept
    constants from either graph.
    """
    codes = {
        name: value
        for name, value in inner.constants.items()
        if value.dtype in (np.int8, np.uint8) and value.nbytes >= weights.LARGE
    }
    for name in codes:
        del inner.constants[name]
    return codes


@dataclass
class _Step:
    """The graph of one step under construction, which a Loop runs for all steps of a range, and the coefficients that
    it looks up. `made` has the names of all network outputs."""

    run: Run
    inner: Builder
    numbers: StepNumbers
    batch: RunBatch
    stretch: StepRange
    at: int
    made: dict[str, str] = field(default_factory=dict)

    @property
    def network(self) -> BakedNetwork:
        """The network that runs all steps of the range."""
        return self.run.network(self.stretch.steps[0])

    def advance(self, plan: Plan, rows: Sequence[str]) -> list[str]:
        """Add the nodes that compute the state after the step. Return the names of its rows. In all steps of the range,
        x is the same row."""
        stretch, inner, draws = self.stretch, self.inner, self.run.draws
        assert isinstance(stretch, AlignedSteps)
        if self.run.held is not None:
            rows = self._apply_hold(rows, self.run.held)
        u = inner.combine(self._row(stretch.input), rows, "u")
        if stretch.estimate is not None:
            x0 = inner.combine(self._row(stretch.estimate), rows, "last_x0")
            u = inner.node("Concat", (u, x0), "u_and_last_x0", axis=1)
        outputs = self.outputs(u)
        columns = [*rows, *outputs]
        if stretch.shaping is not None:
            seen = len(columns)
            values = [
                inner.combine(self._row(stretch.shaping_of[:, i, :seen], len(rows)), columns, f"to_shape_{i}")
                for i in range(stretch.shaping_of.shape[1])
            ]
            sample = self.run.sample[1:]
            bounds = (
                [self.numbers.float(ends) for ends in stretch.bounds.T] if isinstance(stretch.shaping, Clip) else []
            )
            columns.append(lay_shaping(inner, stretch.shaping, values, bounds, sample))
        noise = draws.add_all_draws(self.run.outer) if stretch.draws.size else ""
        for d, numbers in enumerate(draws.places(stretch.draws).T):
            draw = inner.node("Gather", (noise, self.numbers.scalar(numbers)), f"draw_{d}", axis=0)
            is_scaled = d == 0 and stretch.log_scale is not None
            columns.append(self._scale(draw, [*rows, *outputs]) if is_scaled else draw)
        nexts = []
        for k in range(len(rows)):
            row = inner.combine(self._row(stretch.update[:, k], len(rows)), columns, f"row_{k}")
            terms = [(number, column) for number, (place, column) in enumerate(stretch.terms) if place == k]
            for i, (number, column) in enumerate(terms):
                tensor = self._tensor(plan, stretch.tensor_of[:, number], number)
                if column is not None:
                    tensor = inner.node("Mul", (tensor, columns[column]), f"row_{k}_tensor_{i}")
                row = inner.node("Add", (row, tensor), f"row_{k}_with_tensor_{i}")
            nexts.append(inner.node("Identity", (row,), f"next_{k}"))
        return nexts

    def _scale(self, draw: str, columns: Sequence[str]) -> str:
        """Add the nodes that multiply a draw by the standard deviation that the network predicts. Return their
        result."""
        assert isinstance(self.stretch, AlignedSteps) and self.stretch.log_scale is not None
        row = self._row(self.stretch.log_scale[:, : len(columns)], 0)
        factor = self.inner.node("Exp", (self.inner.combine(row, columns, "log_scale"),), "draw_scale")
        return self.inner.node("Mul", (draw, factor), "scaled_draw")

    def _apply_hold(self, rows: Sequence[str], held: HoldInputs) -> list[str]:
        """Add the nodes that restore the known part of the sample in the state row of x. Return the names of all state
        rows."""
        draws = self.run.draws
        steps = slice(self.at, self.at + len(self.stretch.steps))
        scales, noise = [], ""
        if held.draws:
            scales = [self.numbers.float(np.array(array[steps])) for array in (held.alphas, held.sigmas)]
            places = draws.places(np.array(held.draws[steps]))
            noise = self.inner.node(
                "Gather", (draws.add_all_draws(self.run.outer), self.numbers.scalar(places)), "hold_draw", axis=0
            )
        is_kept = self.numbers.float(np.array(held.kept[steps])) if held.kept else ""
        row = held.rows[self.at]
        restored = held.add_hold(self.inner, rows[row], scales, noise, "hold", is_kept)
        return [*rows[:row], restored, *rows[row + 1 :]]

    def outputs(self, u: str) -> list[str]:
        """Evaluate the network on u, once for all branches; return one output per branch and head."""
        inner, stretch = self.inner, self.stretch
        count = len(stretch.branches)
        uneven = any(number != count for number in stretch.count)
        evaluated = (
            BATCH if count == 1 else "evaluated" if uneven else f"batch_{count}"
        )  # the leading axis of the network's inputs
        stacked = u if count == 1 else inner.node("Concat", (u,) * count, "u_branches", axis=0)
        places = self.batch.places(count)
        if uneven:
            here = inner.node("Mul", (self.numbers.integer(np.array(stretch.count)), self.batch.size), "places_here")
            zero = inner.constant(np.array([0], np.int64), "zero")
            places = inner.node("Slice", (places, zero, here, zero), "places")
            stacked = inner.node("Gather", (stacked, places), "u_evaluated", axis=0)
        feeds = {
            tensor.name: self._input(tensor.name, tensor.role, places, stacked) for tensor in self.network.entry.inputs
        }
        self.made = inner.inline_graph(self.network.graph, feeds, inner.prefix, self.network.name, evaluated)
        result = next(iter(self.made.values()))
        if uneven:
            results = [self._branch(result, branch) for branch in range(count)]
        elif count > 1:
            names = [f"output_{branch}" for branch in range(count)]
            results = [*inner.multi_output_node("Split", (result,), names, axis=0, num_outputs=count)]
        else:
            results = [result]
        if stretch.heads == 1:
            return results
        heads = [[f"output_{branch}_head_{head}" for head in range(stretch.heads)] for branch in range(count)]
        return [
            output
            for branch, names in zip(results, heads, strict=True)
            for output in inner.multi_output_node("Split", (branch,), names, axis=1, num_outputs=stretch.heads)
        ]

    def _branch(self, result: str, branch: int) -> str:
        """Return the output of a branch. A step that skips it gets another branch's output, with a coefficient of
        zero."""
        ends = zip(self.stretch.first, self.stretch.count, strict=True)
        indices = np.array([min(max(branch - first, 0), count - 1) for first, count in ends])
        start = self.inner.node("Mul", (self.numbers.integer(indices), self.batch.size), f"output_{branch}_start")
        places = self.inner.node("Add", (self.batch.places(1), start), f"output_{branch}_places")
        return self.inner.node("Gather", (result, places), f"output_{branch}", axis=0)

    def _input(self, name: str, role: str, places: str, stacked: str) -> str:
        """Return the name of the tensor for one of the network's inputs. `places` names the indices that assign rows of
        conditions to the rows of u, one branch after the other."""
        steps = self.stretch.steps
        if role == "x":
            return stacked
        if role == "group":
            return self.numbers.integer(np.array([step.group for step in steps]))
        if role in ("time", "to"):
            times = [step.time if role == "time" else step.to or 0.0 for step in steps]
            shape = self.inner.node("Shape", (places,), f"{name}_shape")
            return self.inner.node("Expand", (self.numbers.float(np.array(times)), shape), f"{name}_now")
        if role == PORT and self.run.features is not None:
            return self.run.features.add_read(self.inner, self.batch, steps[0])
        if role == PORT:
            (bank,) = (bank for bank in self.run.banks if bank.input_port.name == name)
            begin = np.array(bank.first[self.at : self.at + len(steps)])
            ends = (self.numbers.integer(begin), self.numbers.integer(begin + len(self.stretch.branches)))
            return bank.add_read(self.inner, ends, name)
        setup = self.run.setup[steps[0].network]
        if name in setup.by_pair:
            source, first = setup.by_pair[name], list(setup.first_pair[self.at : self.at + len(steps)])
        else:
            source = setup.by_branch[name]
            first = [setup.branches.index(step.branches[0]) for step in steps]
            if all(step.branches == setup.branches for step in steps):
                return source
        start = self.inner.node("Mul", (self.numbers.integer(np.array(first)), self.batch.size), f"{name}_start")
        where = self.inner.node("Add", (places, start), f"{name}_places")
        return self.inner.node("Gather", (source, where), f"{name}_now", axis=0)

    def _row(self, values: NDArray[np.float64], count: int | None = None) -> list[Coefficient]:
        """Return one row of coefficients for the current step, from `values` [S, columns]. A column that is 0 in every
        step, or is 1 in every step and among the first `count`, becomes a constant and needs no Mul."""
        count = values.shape[1] if count is None else count
        row: list[Coefficient] = []
        for j, column in enumerate(values.T):
            is_plain = not column.any() or (j < count and bool((column == 1).all()))
            row.append(float(column[0]) if is_plain else self.numbers.float(column))
        return row

    def _tensor(self, plan: Plan, numbers: NDArray[np.int64], term: int) -> str:
        """Add the nodes that look up the tensor coefficient of a term for the current step. Return its name. `numbers`
        [S] has its number in the plan for each step; for a step without such a term it is zeros."""
        used = sorted({int(number) for number in numbers} - {NO_TENSOR})
        arrays: list[Array] = [tensor_values(plan.tensors[number]).astype(np.float32) for number in used]
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        stack = np.stack([*(np.broadcast_to(array, shape) for array in arrays), np.zeros(shape, np.float32)])
        table = self.inner.constant(stack, f"tensors_{term}")
        places = np.array([used.index(number) if number in used else len(used) for number in numbers])
        return self.inner.node("Gather", (table, self.numbers.scalar(places)), f"tensor_{term}", axis=0)
