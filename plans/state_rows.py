"""Make the tables of a plan from a traced solver: live ranges of buffers decide the rows of the state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import msgspec
import numpy as np

from fewstep.plans.plan import Row, Tensor, Term, tensor
from fewstep.plans.symbol import Coefficient, Lin, is_zero
from fewstep.plans.tracer import Draw, Given, Ones, Predicted, Stored, Tracer

Expansion = Callable[[int, int], Lin]  # (evaluations before, buffer) -> its sum


class Table(msgspec.Struct, frozen=True):
    """Lines of numbers, one for each row made, and the terms whose coefficient is a tensor."""

    rows: tuple[Row, ...]
    terms: tuple[Term, ...]


class StepTable(msgspec.Struct, frozen=True):
    """Numbers of one evaluation and the update after it.

    `shaping_of` has columns for state rows and outputs. `x0` has one more for the shaping's result, if there is a
    shaping. `update` (one line per row of the next state) has further columns for `draws`, in order.
    """

    input: Row
    shaping_of: tuple[Row, ...]
    x0: Row
    update: Table
    draws: tuple[int, ...]


class Tables(msgspec.Struct, frozen=True):
    """A whole traced solver: `start` gives the first state over `given`, then `start_draws`; the sample is `output` .
    last state. `given` is all that the solver asked for, read or not: at pure noise an image has the coefficient 0."""

    rows: int
    given: tuple[str, ...]
    start: Table
    start_draws: tuple[int, ...]
    steps: tuple[StepTable, ...]
    output: Row
    tensors: tuple[Tensor, ...]


def tabulate(tracer: Tracer, sample: Lin) -> Tables:
    """Tables of a traced solver that returned `sample`."""
    final = tracer.store(sample)
    values_of = _expanding(tracer)
    live = _live(tracer, final, values_of)
    places = _places(live)
    rows = max(len(row_of) for row_of in places)
    tensors = _Tensors(tracer)

    values = {row: values_of(0, buffer) for buffer, row in places[0].items()}
    given = tuple(b for b, buffer in enumerate(tracer.buffers) if isinstance(buffer, Given))
    draws = _draws(tracer, values.values())
    columns = {buffer: i for i, buffer in enumerate((*given, *draws))}
    start = tensors.table(values, columns, rows, len(columns))
    start_draws = _draw_numbers(tracer, draws)

    steps = []
    for e, evaluation in enumerate(tracer.evaluations):
        results = (*evaluation.outputs, *(() if evaluation.shaped is None else (evaluation.shaped,)))
        values = {row: values_of(e + 1, buffer) for buffer, row in places[e + 1].items()}
        draws = _draws(tracer, values.values())
        columns = places[e] | {buffer: rows + i for i, buffer in enumerate((*results, *draws))}
        seen = rows + len(evaluation.outputs)
        steps.append(
            StepTable(
                input=_row(evaluation.input, columns, rows),
                shaping_of=tuple(_row(value, columns, seen) for value in evaluation.shaping_of),
                x0=_row(evaluation.x0, columns, rows + len(results)),
                update=tensors.table(values, columns, rows, rows + len(results) + len(draws)),
                draws=_draw_numbers(tracer, draws),
            )
        )
    return Tables(
        rows=rows,
        given=tuple(buffer.name for b in given if isinstance(buffer := tracer.buffers[b], Given)),
        start=start,
        start_draws=start_draws,
        steps=tuple(steps),
        output=_row(final, places[-1], rows),
        tensors=tuple(tensors.items),
    )


def _expanding(tracer: Tracer) -> Expansion:
    """Buffers of the state after `ready` evaluations, as sums over the rows of the state before, the evaluation's
    outputs and draws. A row that existed before is carried over as itself."""

    @cache
    def expanded(ready: int, buffer: int) -> Lin:
        kind = tracer.buffers[buffer]
        made_now = (isinstance(kind, Stored) and kind.ready == ready) or (
            isinstance(kind, Predicted) and kind.evaluation == ready - 1
        )
        if not made_now:
            return Lin({buffer: 1.0})
        assert isinstance(kind, Stored | Predicted)
        total: dict[int, Coefficient] = {}
        for part, coefficient in kind.value.terms.items():
            for leaf, factor in expanded(ready, part).terms.items():
                product = coefficient * factor
                total[leaf] = total[leaf] + product if leaf in total else product
        return Lin({leaf: coefficient for leaf, coefficient in total.items() if not is_zero(coefficient)})

    return expanded


def _live(tracer: Tracer, final: Lin, values: Expansion) -> list[set[int]]:
    """The buffers that each state must hold, searched backwards from the sample."""
    live = [set(final.terms)]
    for ready in range(len(tracer.evaluations), 0, -1):
        evaluation = tracer.evaluations[ready - 1]
        needed: set[int] = set()
        for value in (evaluation.input, evaluation.x0, *evaluation.shaping_of):
            needed |= value.terms.keys()
        for buffer in live[0]:
            needed |= values(ready, buffer).terms.keys()
        live.insert(0, {b for b in needed if isinstance(tracer.buffers[b], Stored | Predicted)})
    return live


def _places(live: list[set[int]]) -> list[dict[int, int]]:
    """Row of each buffer in each state. A buffer keeps its row while it lives; a new one takes the lowest free row,
    the newest (the next network input) first. Live ranges being intervals, no state needs more rows than the fullest
    one has buffers."""
    places: list[dict[int, int]] = []
    for buffers in live:
        kept = {b: row for b, row in (places[-1] if places else {}).items() if b in buffers}
        taken = set(kept.values())
        free = (row for row in range(len(buffers) + len(kept)) if row not in taken)
        places.append(kept | dict(zip(sorted(buffers - kept.keys(), reverse=True), free, strict=False)))
    return places


def _draws(tracer: Tracer, values: Iterable[Lin]) -> tuple[int, ...]:
    """The draws that a set of values reads, each once."""
    return tuple(sorted({b for value in values for b in value.terms if isinstance(tracer.buffers[b], Draw)}))


def _draw_numbers(tracer: Tracer, buffers: Iterable[int]) -> tuple[int, ...]:
    return tuple(buffer.draw for b in buffers if isinstance(buffer := tracer.buffers[b], Draw))


def _row(value: Lin, columns: Mapping[int, int], width: int) -> Row:
    """One line of numbers; what a network sees and predicts has no tensor coefficients."""
    row = [0.0] * width
    for buffer, coefficient in value.terms.items():
        if isinstance(coefficient, np.ndarray):
            raise TypeError("a tensor times a state is a row: store it before it is combined for the network")
        row[columns[buffer]] = coefficient
    return tuple(row)


@dataclass
class _Tensors:
    """The tensors that tables refer to, each once."""

    tracer: Tracer
    items: dict[Tensor, int] = field(default_factory=dict)  # with their numbers

    def table(self, values: Mapping[int, Lin], columns: Mapping[int, int], rows: int, width: int) -> Table:
        """One line per state row; a row that nothing lives in becomes zero."""
        lines = [[0.0] * width for _ in range(rows)]
        terms = []
        for row, value in sorted(values.items()):
            for buffer, coefficient in value.terms.items():
                alone = isinstance(self.tracer.buffers[buffer], Ones)
                if alone or isinstance(coefficient, np.ndarray):
                    terms.append(Term(row, None if alone else columns[buffer], self._number(coefficient)))
                else:
                    lines[row][columns[buffer]] = coefficient
        return Table(tuple(map(tuple, lines)), tuple(terms))

    def _number(self, coefficient: Coefficient) -> int:
        return self.items.setdefault(tensor(coefficient), len(self.items))
