"""One batch of a judgement: every body samples the same held-out seeds along the same plan as the float32 body.

A batch is asked for by value and answered by bodies, wherever they are open.

A step is *forced* where a body is fed float32's state of it instead of its own: errors of earlier steps have no part in
what it makes there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.direction import NONE, Sums, differences, moved, sums
from fewstep.measure.rollouts.metrics import energies
from fewstep.measure.rollouts.reference import ReferenceRun, run_reference
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.rollouts.token_course import open_token_course
from fewstep.measure.sampling import FLOAT
from fewstep.plans import guidance
from fewstep.plans.any_plan import AnyPlan, Edges, regroup
from fewstep.plans.arguments import check_compiled, check_tokens
from fewstep.plans.plan import Plan, Step
from fewstep.plans.tokens.plan import LOGITS, TokenPlan
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.execute import Array, StepNetwork, carry_in, combine
from fewstep.runtime.finite import finite_outputs
from fewstep.runtime.step_call import StepCall


class JudgedBody(Protocol):
    """A body, as far as it is judged; `Sampler` is one. `step_call` is of a compiled plan, the samples of a batch, and
    the values of the conditions for each."""

    def compile(self, plan: Plan, /) -> Plan: ...

    def step_call(self, plan: Plan, samples: int, conditions: ConditionRecords, /) -> StepCall: ...


JudgedBodies = Callable[[str], Any]  # by the name of the body: a JudgedBody, of tokens a Sampler


@dataclass(frozen=True)
class Contender:
    """A body to be judged, on the first `seeds` seeds; on the first `forced_seeds` of them its steps are forced too.

    plan: its own, along which float32 is compared with it; None is the plan of the judgement, as for all tokens.
    """

    name: str
    groups: Edges  # of lambda, between its range groups
    seeds: int
    forced_seeds: int = 0
    plan: Plan | None = None


@dataclass(frozen=True)
class JudgedBatch:
    """The question for runs of float32 and of contenders from the same seeds, along the judged plan."""

    plan: AnyPlan
    contenders: tuple[Contender, ...]  # of tokens one has all seeds of the batch: float32's run comes with its own
    batch: SeedBatch

    def answer(self, bodies: JudgedBodies) -> "dict[str, JudgedRun]":
        """The runs of float32 and of the contenders, by the name of the body."""
        if self.plan.prediction == LOGITS:
            tokens = check_tokens(self.plan)
            runs = {each.name: _judged_tokens(tokens, each, self.batch, bodies) for each in self.contenders}
            sample = max((run.reference for run in runs.values()), key=len)
        else:
            plan = check_compiled(self.plan)
            exact, runs = self._reference(plan, bodies), {}
            for each in self.contenders:
                floats = exact if each.plan is None else self._reference(each.plan, bodies)
                along = regroup(each.plan or plan, each.groups)
                runs[each.name] = _judged_run(along, each, bodies(each.name), floats, bodies(FLOAT))
            sample = exact.sample
        return {FLOAT: JudgedRun(sample, sample), **runs}

    def _reference(self, plan: Plan, bodies: JudgedBodies) -> ReferenceRun:
        return run_reference(plan, self.batch, _call(plan, bodies(FLOAT), self.batch).step_network)


class StepSums(NamedTuple):
    """Sums over the seeds of a batch at one step. Those of batches add up, field by field.

    x0, x: `energies` [2] of the predicted sample, and of x after the step, along the body's own run.
    forced: `energies` [2] of the guided output where the step is forced; 0 without `forced_seeds`.
    differences: `direction.sums` [2, 5] where the step is forced; 0 without conditions too.
    """

    x0: NDArray[np.float64]
    x: NDArray[np.float64]
    forced: NDArray[np.float64]
    differences: Sums
    forced_seeds: int


@dataclass(frozen=True)
class JudgedRun:
    """One contender in one batch: its samples, and float32's of the same seeds along its plan.

    agreement, decibels [seeds]: of tokens, which have nothing else but samples.
    """

    samples: NDArray[Any]
    reference: NDArray[Any]
    steps: tuple[StepSums, ...] = ()  # one for each step of a plan of numbers; empty of tokens and of float32 itself
    agreement: TokenAgreement | None = None
    decibels: NDArray[np.float64] | None = None


def guided(outputs: Sequence[Array], plan: Plan, index: int) -> Array:
    """The guided output of the branches that step `index` evaluates; of several heads the first, the prediction."""
    step = plan.steps[index]
    weights = guidance.weights(plan.guidance, index, -np.inf if step.lam is None else step.lam)
    return combine(tuple(weights[branch] for branch in step.branches), outputs[:: step.heads], np.float32)


def _call(plan: Plan, body: JudgedBody, batch: SeedBatch) -> StepCall:
    return body.step_call(body.compile(plan), len(batch.seeds), batch.conditions)


def _judged_tokens(plan: TokenPlan, contender: Contender, batch: SeedBatch, bodies: JudgedBodies) -> JudgedRun:
    """One batch of one contender: its logits at float32's states, and its own run."""
    along, batch = regroup(plan, contender.groups), batch.first(contender.seeds - batch.seeds[0])
    course = open_token_course(bodies(FLOAT), along, batch)
    run = course.run_by(bodies(contender.name).step_call(along, len(batch.seeds), batch.conditions).logits)
    return JudgedRun(run.ids, course.reference.ids, agreement=course.agreement(run), decibels=course.decibels(run))


def _judged_run(
    plan: Plan, contender: Contender, body: JudgedBody, exact: ReferenceRun, reference: JudgedBody
) -> JudgedRun:
    """One batch of one contender: its own run, and its forced steps. `exact` is the run of `reference`, float32."""
    start = exact.batch.seeds[0]
    batch, forced = (exact.batch.first(max(count - start, 0)) for count in (contender.seeds, contender.forced_seeds))
    count = len(batch.seeds)
    states = list(batch.finite(plan, _call(plan, body, batch).step_network))
    forced_steps = _forced_steps(plan, body, forced, exact, reference)
    steps = tuple(
        StepSums(
            x0=energies(state.x0, floats.x0[:count]),
            x=energies(exact.after(state), exact.after(floats)[:count]),
            forced=of_output,
            differences=of_differences,
            forced_seeds=len(forced.seeds),
        )
        for state, floats, (of_output, of_differences) in zip(states, exact.states, forced_steps, strict=True)
    )
    return JudgedRun(exact.finished(states), exact.sample[:count], steps)


def _forced_steps(
    plan: Plan, body: JudgedBody, batch: SeedBatch, exact: ReferenceRun, reference: JudgedBody
) -> Iterator[tuple[NDArray[np.float64], Sums]]:
    """`StepSums.forced` and `StepSums.differences` of each step; the batch has the seeds whose steps are forced."""
    if not (count := len(batch.seeds)):
        yield from [(np.zeros(2), NONE)] * len(plan.steps)
        return
    network, floats = (_forced(_call(plan, each, batch), plan, exact) for each in (body, reference))
    for i, (step, state) in enumerate(zip(plan.steps, exact.states, strict=True)):
        u, expected = state.u[:count], [output[:count] for output in state.outputs]
        outputs = network(i, step, u)
        of_differences = NONE
        if batch.conditions:
            changes = differences(step, outputs, network(i, step, moved(u)))
            exact_changes = differences(step, expected, floats(i, step, moved(u)))
            of_differences = sums(changes, exact_changes, state.x0[:count])
        yield energies(guided(outputs, plan, i), guided(expected, plan, i)), of_differences


def _forced(call: StepCall, plan: Plan, exact: ReferenceRun) -> StepNetwork:
    """The network at single steps, each fed what float32 carried there: in a plan of a file, steps may share a slot."""

    def network(index: int, step: Step, u: Array) -> Sequence[Array]:
        if (before := exact.states[index - 1].slots if index else call.slots) is None:
            return call(index, step, u)
        return call.carrying(index, step, u, carry_in(plan, step, before.of(range(len(u)))))[0]

    return finite_outputs(network, plan)
