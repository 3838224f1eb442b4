"""Build a plan from a traced solver. The live ranges of its buffers determine the rows of the state."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from fewstep.plans.buffers import Draw, Given, Ones, Predicted, Stored
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import SCHEMA, Plan, Row, Step, Tensor, Term, group_of, make_tensor
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.symbol import Coefficient, Lin, is_zero
from fewstep.plans.tracer import Tracer

Expansion = Callable[[int, int], Lin]  # (evaluations so far, buffer) -> the buffer as a sum


def build_plan(
    name: str,
    tracer: Tracer,
    sample: Lin,
    guidance: Guidance | None,
    strength: float | None,
    renoise: float | None,
    groups: Sequence[float],
) -> Plan:
    """Return the plan that computes `sample`, the result of a solver after it was traced.

    Its given tensors are all those that the solver requested, including those with coefficient 0, such as an image at
    pure noise. `guidance`, `strength` and `renoise` are recorded as the caller passed them.
    """
    final = tracer.store(sample)
    values_of = _make_expansion(tracer)
    live = _live_buffers(tracer, final, values_of)
    places = _assign_rows(live)
    rows = max(len(row_of) for row_of in places)
    tensors = _Tensors(tracer)

    values = {row: values_of(0, buffer) for buffer, row in places[0].items()}
    given = {b: buffer.name for b, buffer in enumerate(tracer.buffers) if isinstance(buffer, Given)}
    draws = _draws(tracer, values.values())
    columns = {buffer: i for i, buffer in enumerate((*given, *draws))}
    start, start_terms = tensors.table(values, columns, rows, len(columns))
    start_draws = _draw_numbers(tracer, draws)

    steps = []
    for e, evaluation in enumerate(tracer.evaluations):
        results = (*evaluation.outputs, *(() if evaluation.shaped is None else (evaluation.shaped,)))
        values = {row: values_of(e + 1, buffer) for buffer, row in places[e + 1].items()}
        draws = _draws(tracer, values.values())
        columns = places[e] | {buffer: rows + i for i, buffer in enumerate((*results, *draws))}
        seen, time = rows + len(evaluation.outputs), evaluation.time
        update, terms = tensors.table(values, columns, rows, rows + len(results) + len(draws))
        steps.append(
            Step(
                network=evaluation.network,
                time=time.network,
                to=None if evaluation.to is None else _second_time(evaluation.to, tracer.schedule),
                lam=None if math.isinf(time.lam) else time.lam,
                alpha=time.alpha,
                sigma=time.sigma,
                group=group_of(time.lam, groups),
                branches=evaluation.branches,
                heads=len(evaluation.outputs) // len(evaluation.branches),
                input=_row(evaluation.input, columns, rows),
                shaping=None if evaluation.shaped is None else tracer.shaping,
                shaping_of=tuple(_row(value, columns, seen) for value in evaluation.shaping_of),
                x0=_row(evaluation.x0, columns, rows + len(results)),
                update=update,
                terms=terms,
                draws=_draw_numbers(tracer, draws),
                log_scale=_log_scale(tracer, draws, columns, seen),
                estimate=() if evaluation.estimate is None else _row(evaluation.estimate, columns, rows),
            )
        )
    return Plan(
        schema=SCHEMA,
        name=name,
        schedule=tracer.schedule.fingerprint,
        prediction=tracer.prediction,
        guidance=guidance,
        strength=strength,
        renoise=renoise,
        rows=rows,
        given=tuple(given.values()),
        start=start,
        start_terms=start_terms,
        start_draws=start_draws,
        steps=tuple(steps),
        output=_row(final, places[-1], rows),
        tensors=tuple(tensors.items),
    )


def _second_time(to: Time, schedule: NoiseSchedule) -> float:
    """Return the network's second time. At the clean end this is the schedule's cleanest time, such as sigma_min."""
    return to.network if to.sigma > 0 else schedule.cleanest.network


def _make_expansion(tracer: Tracer) -> Expansion:
    """Return a function that expresses a buffer after `ready` evaluations as a linear combination of the previous state
    rows, and of the outputs and draws of the last evaluation. A buffer that is already stored in a row expands to that
    row."""

    @cache
    def expand(ready: int, buffer: int) -> Lin:
        kind = tracer.buffers[buffer]
        made_now = (isinstance(kind, Stored) and kind.ready == ready) or (
            isinstance(kind, Predicted) and kind.evaluation == ready - 1
        )
        if not made_now:
            return Lin({buffer: 1.0})
        assert isinstance(kind, Stored | Predicted)
        total: dict[int, Coefficient] = {}
        for part, coefficient in kind.value.terms.items():
            for leaf, factor in expand(ready, part).terms.items():
                product = coefficient * factor
                total[leaf] = total[leaf] + product if leaf in total else product
        return Lin({leaf: coefficient for leaf, coefficient in total.items() if not is_zero(coefficient)})

    return expand


def _live_buffers(tracer: Tracer, final: Lin, values: Expansion) -> list[set[int]]:
    """Return, for each state, the buffers that it must contain, by a backward search from the sample."""
    live = [set(final.terms)]
    for ready in range(len(tracer.evaluations), 0, -1):
        evaluation = tracer.evaluations[ready - 1]
        needed: set[int] = set()
        estimate = Lin({}) if evaluation.estimate is None else evaluation.estimate
        for value in (evaluation.input, evaluation.x0, estimate, *evaluation.shaping_of):
            needed |= value.terms.keys()
        for buffer in live[0]:
            needed |= values(ready, buffer).terms.keys()
        live.insert(0, {b for b in needed if isinstance(tracer.buffers[b], Stored | Predicted)})
    return live


def _assign_rows(live: list[set[int]]) -> list[dict[int, int]]:
    """Return the row of each buffer in each state.

    A buffer keeps its row while it is live. New buffers take the lowest free rows, newest first (the next network
    input). Live ranges are intervals, so the number of rows is the largest number of buffers that are live at once.
    """
    places: list[dict[int, int]] = []
    for buffers in live:
        kept = {b: row for b, row in (places[-1] if places else {}).items() if b in buffers}
        taken = set(kept.values())
        free = (row for row in range(len(buffers) + len(kept)) if row not in taken)
        places.append(kept | dict(zip(sorted(buffers - kept.keys(), reverse=True), free, strict=False)))
    return places


def _draws(tracer: Tracer, values: Iterable[Lin]) -> tuple[int, ...]:
    """Return the numbers of the draws that some values contain, sorted and without duplicates."""
    return tuple(sorted({b for value in values for b in value.terms if isinstance(tracer.buffers[b], Draw)}))


def _log_scale(tracer: Tracer, draws: Sequence[int], columns: Mapping[int, int], width: int) -> Row:
    """Return the row of the logarithm of the first draw's factor; an empty row without one."""
    scales = [buffer.log_scale for b in draws if isinstance(buffer := tracer.buffers[b], Draw)]
    if any(scale is not None for scale in scales[1:]):
        raise TypeError("a step can scale only its first draw by outputs of the network")
    return _row(scales[0], columns, width) if scales and scales[0] is not None else ()


def _draw_numbers(tracer: Tracer, buffers: Iterable[int]) -> tuple[int, ...]:
    return tuple(buffer.draw for b in buffers if isinstance(buffer := tracer.buffers[b], Draw))


def _row(value: Lin, columns: Mapping[int, int], width: int) -> Row:
    """Return the coefficients of a linear combination as one line over the columns. It must not have tensor
    coefficients, which are not allowed in the network's input and prediction."""
    row = [0.0] * width
    for buffer, coefficient in value.terms.items():
        if isinstance(coefficient, np.ndarray):
            raise TypeError("a tensor times a state must be a row: store it before it enters the network's input")
        row[columns[buffer]] = coefficient
    return tuple(row)


@dataclass
class _Tensors:
    """The tensor coefficients of a plan, each stored once. Its tables refer to them by number."""

    tracer: Tracer
    items: dict[Tensor, int] = field(default_factory=dict)  # tensor -> its number

    def table(
        self, values: Mapping[int, Lin], columns: Mapping[int, int], rows: int, width: int
    ) -> tuple[tuple[Row, ...], tuple[Term, ...]]:
        """Return the coefficients as a table, and the terms whose coefficient is a tensor. The table has one line per
        state row; it is zero for an unused row."""
        lines = [[0.0] * width for _ in range(rows)]
        terms = []
        for row, value in sorted(values.items()):
            for buffer, coefficient in value.terms.items():
                alone = isinstance(self.tracer.buffers[buffer], Ones)
                if alone or isinstance(coefficient, np.ndarray):
                    terms.append(Term(row, None if alone else columns[buffer], self._number(coefficient)))
                else:
                    lines[row][columns[buffer]] = coefficient
        return tuple(map(tuple, lines)), tuple(terms)

    def _number(self, coefficient: Coefficient) -> int:
        return self.items.setdefault(make_tensor(coefficient), len(self.items))
