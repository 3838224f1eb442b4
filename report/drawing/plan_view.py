"""Show compiled plans: their cost, their steps as equations, and their recurrence in terms of x0."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans import guidance as guidances
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.compile import compile_plan
from fewstep.plans.default_grid import default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.file import read_plan
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    NamedReference,
    NameParts,
    SchedulerReference,
    TextReference,
)
from fewstep.plans.names.token_plan_name import is_token_plan_name
from fewstep.plans.plan import DENOISER, Plan, Row, Step, Term
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.options import Options
from fewstep.runtime.sampling.calibrated_plans import find_defaults
from fewstep.runtime.sampling.execute import combine, execute
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans

Array = NDArray[np.float64]
LAGS = 4  # number of newest outputs that a recurrence lists separately


@dataclass(frozen=True)
class PlanOptions(Options):
    """List the solvers and time grids, or show or plot one compiled sampling plan.

    list: List every solver with its paper, order and cost, and every time grid. This is the default.
    show: Print this plan as a table: SOLVER:STEPS, SOLVER:STEPS@GRID, fitted:STEPS of a bundle, or the path of a plan's
        JSON file.
    plot: Plot the times and coefficients of this plan: SOLVER:STEPS, SOLVER:STEPS@GRID, fitted:STEPS of a bundle, or
        the path of a plan's JSON file.
    bundle: Compile for the denoiser of this bundle (an exported model). Default: use --schedule and --prediction.
    schedule: The noise schedule: linear, cosine, flow, ...
    prediction: The output of the denoiser: epsilon, sample, v, flow, ...
    guidance: Weight of classifier-free guidance, pag:SCALE for perturbed attention, or steer:WEIGHT for gradient
        guidance. A plus sign joins several, as 2+pag:3. cfg++:WEIGHT is CFG++. Default: as calibrated, with --bundle.
    output: The SVG file to write.
    """

    list: bool = False
    show: TextReference | None = None
    plot: TextReference | None = None
    bundle: Path | None = None
    schedule: str = "linear"
    prediction: str = "epsilon"
    guidance: float | guidances.Guidance | None = None
    output: Path = field(default=Path("plan.svg"), metadata={"short": "-o"})

    def compile(self, reference: TextReference) -> AnyPlan:
        """Compile a plan for the denoiser that these options describe, or read it from its file.

        Returns a `Plan`, or a `TokenPlan` for a token denoiser. Raises UserError for an unknown name.
        """
        if self.bundle is not None:
            return _compile_for_bundle(open_bundle(self.bundle), reference, self.guidance)
        match reference:
            case FileReference(path):
                if self.guidance is not None:
                    raise UserError(f"plan file {path} has its own guidance", "leave --guidance out")
                return read_plan(path)
            case FittedReference():
                what = f"plan '{reference}' is a fitted plan, which is stored in a bundle"
                raise UserError(what, "name the bundle by --bundle")
            case SchedulerReference():
                what = f"plan '{reference}' is for the scheduler of a denoiser, which is stored in a bundle"
                raise UserError(what, "name the bundle by --bundle")
            case NamedReference(name):
                return _compile_for_options(self, name)


def _compile_for_options(options: PlanOptions, name: NameParts) -> Plan:
    """Compile the plan of a name for the schedule and prediction of the options."""
    if is_token_plan_name(name):
        raise UserError(f"plan '{name}' depends on the number of tokens", "name a token bundle by --bundle")
    if name.light is not None:
        raise UserError(f"plan '{name}' has light steps, which depend on the bundle", "name the bundle by --bundle")
    kinds = get_args(get_type_hints(ScheduleSpec)["kind"])
    for option, value, names in (
        ("schedule", options.schedule, kinds),
        ("prediction", options.prediction, get_args(Prediction)),
    ):
        if value not in names:
            raise UserError(f"unknown {option} {value!r}", f"choose one of {', '.join(names)}")
    spec = msgspec.convert({"kind": options.schedule}, ScheduleSpec)
    prediction = msgspec.convert(options.prediction, Prediction)
    denoiser = DenoiserFacts(spec, prediction, grid=default_grid(spec, prediction))
    return compile_plan(name, denoiser, options.guidance)


def _compile_for_bundle(
    bundle: Bundle, reference: TextReference, guidance: float | guidances.Guidance | None
) -> AnyPlan:
    """Compile the plan as `fewstep run` would run it, for the float32 body, or for the first body if there is none.

    Without `guidance`, a fitted plan keeps its own guidance if all fits with this number of evaluations have the same.
    """
    bodies = bundle.manifest.bodies
    body = bodies.get("float32") or next(iter(bodies.values()))
    defaults = find_defaults(bundle, body, reference)
    guidance = defaults.guidance if guidance is None else guidance
    if guidance is None and isinstance(reference, FittedReference):
        plans, _ = read_fitted_plans(
            bundle, [entry for entry in bundle.manifest.fitted if entry.evaluations == reference.evaluations]
        )
        if plans and all(plan.guidance == plans[0].guidance for plan in plans):
            guidance = plans[0].guidance
    return plan_for(bundle, body, reference, guidance, {"shaping": defaults.shaping})


def start_equations(plan: Plan) -> Iterator[str]:
    """Yield the rows of the state before the first step: sums of given tensors and of the draws z0, z1, ..."""
    columns = [*plan.given, *(f"z{draw}" for draw in plan.start_draws)]
    for row, coefficients in enumerate(plan.start):
        tensors = [term for term in plan.start_terms if term.row == row]
        yield f"S{row} = {format_combination(coefficients, columns, tensors)}"


def sample_equation(plan: Plan) -> str:
    """Return the sample as a combination of the state after the last step."""
    return f"sample = {format_combination(plan.output, [f'S{row}' for row in range(plan.rows)])}"


def step_equations(plan: Plan, index: int) -> Iterator[str]:
    """Yield the equations of step `index`: the network's input u, and each row of the next state. The name of a network
    other than the denoiser precedes them.

    S0, S1, ... are rows of the state, z0, z1, ... the draws of noise, and p the shaped prediction.
    """
    step = plan.steps[index]
    state = [f"S{row}" for row in range(plan.rows)]
    if step.network != DENOISER:
        yield f"network {step.network}"
    yield f"u = {format_combination(step.input, state)}"
    if step.estimate:
        yield f"last x0 = {format_combination(step.estimate, state)}"
    columns = [*state, *output_names(step)]
    if step.shaping is not None:
        shaped = ", ".join(format_combination(row, columns) for row in step.shaping_of)
        yield f"p = {type(step.shaping).__name__}({shaped})"
        columns.append("p")
    columns += [f"z{draw}" for draw in step.draws]
    if step.log_scale:
        first = columns[-len(step.draws)]
        yield f"{first} = {first} exp({format_combination(step.log_scale, columns[: len(step.log_scale)])})"
    for row, coefficients in enumerate(step.update):
        tensors = [term for term in step.terms if term.row == row]
        equation = format_combination(coefficients, columns, tensors)
        if equation != state[row]:
            yield f"{state[row]}' = {equation}"


def output_names(step: Step) -> list[str]:
    """Return the names of a step's outputs: its branches, numbered if each has several heads."""
    heads = range(step.heads)
    return [branch if step.heads == 1 else f"{branch}.{head}" for branch in step.branches for head in heads]


def format_combination(row: Row, names: Sequence[str], tensors: Sequence[Term] = ()) -> str:
    """Return a linear combination as text with four significant digits: "0.9945 S0 - 0.1045 cond"."""
    parts = [
        ("-" if coefficient < 0 else "+", f"{abs(coefficient):.4g} {name}".removeprefix("1 "))
        for coefficient, name in zip(row, names, strict=True)
        if coefficient != 0.0
    ]
    parts += [("+", f"T{term.tensor}" + ("" if term.column is None else f" {names[term.column]}")) for term in tensors]
    text = " ".join(f"{sign} {part}" for sign, part in parts)
    return f"-{text[2:]}" if text.startswith("-") else text.removeprefix("+ ") or "0"


@dataclass(frozen=True)
class X0Recurrence:
    """A plan as a recurrence over evaluations i. The next network input (at the end, the sample) is

        keep[i] u_i + sum_k lags[k][i] x0_{i-k} + noise[i] z

    x0_i is the clean sample that evaluation i predicts. In terms of x0 the coefficients do not depend on the type of
    prediction. z is fresh noise. Solvers that store outputs other than x0 (noise, slopes) reach further back in x0 than
    LAGS: `earlier[i]` is the sum of the absolute coefficients of those evaluations.
    """

    keep: Array
    lags: tuple[Array, ...]
    earlier: Array
    noise: Array


def extract_recurrence(plan: Plan) -> X0Recurrence:
    """Extract the recurrence of a plan: run it on basis vectors, and read the coefficients off the results.

    Raises UserError for a plan that is not a linear recurrence of numbers: one with shaping or tensor coefficients.
    """
    if plan.tensors or any(step.shaping is not None or step.log_scale for step in plan.steps):
        raise UserError(
            f"plan {plan.name!r} has shaping, a learned variance or tensor coefficients, so it cannot be plotted",
            "print its table: --show",
        )
    plan = msgspec.structs.replace(  # the network's outputs are unknowns here, whatever it takes besides x
        plan, steps=tuple(msgspec.structs.replace(step, estimate=()) for step in plan.steps)
    )
    count = len(plan.steps)
    drawn = sorted({*plan.start_draws, *(draw for step in plan.steps for draw in step.draws)})
    place = {draw: count + index for index, draw in enumerate(drawn)}
    width = count + len(drawn)

    def basis(column: int) -> Array:
        one = np.zeros(width)
        one[column] = 1.0
        return one

    def network(index: int, step: Step, u: NDArray[np.floating]) -> list[Array]:
        of_input, of_outputs = _x0_coefficients(step, plan.rows)
        return [(basis(index) - of_input * u) / of_outputs] * (len(step.branches) * step.heads)

    zeros = {name: np.zeros(width) for name in plan.given}
    states = list(execute(plan, network, lambda draw: basis(place[draw]), np.float64, zeros))
    inputs = [np.asarray(state.u, np.float64) for state in states]
    final = np.asarray(combine(plan.output, states[-1].after, np.float64), np.float64)
    nexts = [*inputs[1:], final]
    first = place[plan.start_draws[0]] if plan.start_draws else width - 1
    keep = np.array([n[first] / u[first] if u[first] else 0.0 for u, n in zip(inputs, nexts, strict=True)])
    rest = np.array([n - k * u for k, u, n in zip(keep, inputs, nexts, strict=True)])
    fresh = np.delete(rest[:, count:], first - count, axis=1)
    return X0Recurrence(
        keep=keep,
        lags=tuple(np.array([rest[i, i - k] if i >= k else 0.0 for i in range(count)]) for k in range(LAGS)),
        earlier=np.array([np.abs(rest[i, : max(i - LAGS + 1, 0)]).sum() for i in range(count)]),
        noise=np.sqrt((fresh**2).sum(axis=1)),
    )


def _x0_coefficients(step: Step, rows: int) -> tuple[float, float]:
    """Return a and b of x0 = a u + b o, where u is the network's input and all of its outputs are taken to be o. Raises
    UserError if x0 does not depend on the outputs."""
    row = next(place for place, coefficient in enumerate(step.input) if coefficient)
    of_outputs = sum(step.x0[rows:])
    if not of_outputs:
        raise UserError(
            f"at time {step.time:g} x0 does not depend on the prediction, so the plan cannot be plotted",
            "print its table: --show",
        )
    return step.x0[row] / step.input[row], of_outputs
