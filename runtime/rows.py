"""From a traced solver to tables: live ranges decide which buffers are rows of the state, and which row each takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fewstep.runtime.lin import Lin
from fewstep.runtime.trace import Draw, Predicted, Stored, Tracer

Row = tuple[float, ...]


@dataclass(frozen=True)
class StepTable:
    """Numbers of one evaluation and the update after it.

    Columns of `x0`: state rows, outputs in branch order. Columns of `update` (one line per row of the next state):
    state rows, outputs, the shaped prediction if there is one, then `draws` in order.
    """

    input: Row
    x0: Row
    update: tuple[Row, ...]
    draws: tuple[int, ...]


@dataclass(frozen=True)
class Tables:
    """A whole traced solver: `start` gives the first state over `start_draws`; the sample is `output` . last state."""

    rows: int
    start: tuple[Row, ...]
    start_draws: tuple[int, ...]
    steps: tuple[StepTable, ...]
    output: Row


def tabulate(tracer: Tracer, sample: Lin) -> Tables:
    """Tables of a traced solver that returned `sample`."""
    final = tracer.store(sample)
    live = _live(tracer, final)
    places = _places(live)
    rows = max(len(row_of) for row_of in places)

    start_values = {row: _value(tracer, 0, buffer) for buffer, row in places[0].items()}
    start_draws = _draws(tracer, start_values.values())
    start = _matrix(start_values, {buffer: i for i, buffer in enumerate(start_draws)}, rows, len(start_draws))

    steps = []
    for e, evaluation in enumerate(tracer.evaluations):
        made = (*evaluation.outputs, *(() if evaluation.shaped is None else (evaluation.shaped,)))
        values = {row: _value(tracer, e + 1, buffer) for buffer, row in places[e + 1].items()}
        draws = _draws(tracer, values.values())
        columns = places[e] | {buffer: rows + i for i, buffer in enumerate((*made, *draws))}
        steps.append(
            StepTable(
                input=_row(Lin({evaluation.input: 1.0}), columns, rows),
                x0=_row(evaluation.x0, columns, rows + len(evaluation.outputs)),
                update=_matrix(values, columns, rows, rows + len(made) + len(draws)),
                draws=_draw_numbers(tracer, draws),
            )
        )
    return Tables(rows, start, _draw_numbers(tracer, start_draws), tuple(steps), _row(final, places[-1], rows))


def _value(tracer: Tracer, ready: int, buffer: int) -> Lin:
    """How a buffer of the state after `ready` evaluations is computed: over the rows of the state before, the
    evaluation's outputs and draws. A row that existed before is carried over as itself."""
    kind = tracer.buffers[buffer]
    made_now = (isinstance(kind, Stored) and kind.ready == ready) or (
        isinstance(kind, Predicted) and kind.evaluation == ready - 1
    )
    if not made_now:
        return Lin({buffer: 1.0})
    assert isinstance(kind, Stored | Predicted)
    total = Lin({})
    for part, coefficient in kind.value.terms.items():
        total = total + coefficient * _value(tracer, ready, part)
    return total


def _live(tracer: Tracer, final: Lin) -> list[set[int]]:
    """For each state, the buffers it must hold: found backwards from the sample."""
    live = [set(final.terms)]
    for ready in range(len(tracer.evaluations), 0, -1):
        needed = {tracer.evaluations[ready - 1].input}
        for buffer in live[0]:
            needed |= _value(tracer, ready, buffer).terms.keys()
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
    """Buffers of the draws that a set of values reads, each once."""
    return tuple(sorted({b for value in values for b in value.terms if isinstance(tracer.buffers[b], Draw)}))


def _draw_numbers(tracer: Tracer, buffers: Iterable[int]) -> tuple[int, ...]:
    return tuple(buffer.draw for b in buffers if isinstance(buffer := tracer.buffers[b], Draw))


def _row(value: Lin, columns: Mapping[int, int], width: int) -> Row:
    row = [0.0] * width
    for buffer, coefficient in value.terms.items():
        row[columns[buffer]] = coefficient
    return tuple(row)


def _matrix(values: Mapping[int, Lin], columns: Mapping[int, int], rows: int, width: int) -> tuple[Row, ...]:
    """One line per state row; a row that nothing lives in becomes zero."""
    return tuple(_row(values.get(row, Lin({})), columns, width) for row in range(rows))
