"""One batch of a judgement: every body samples the same held-out seeds along the same plan as the float32 body.

A batch is asked for by value and answered by bodies, wherever they are open. Of plans of numbers nothing here knows
what a bundle is: tests use denoisers whose error is known.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
from fewstep.plans.plan import Plan
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
    """A body to be judged, on the first `seeds` seeds; its single steps on the first `forced_seeds` of them.

    plan: its own, along which float32 is compared with it; None is the plan of the judgement.
    """

    name: str
    groups: Edges
    seeds: int
    forced_seeds: int = 0
    plan: Plan | None = None


@dataclass(frozen=True)
class JudgedBatch:
    """The question for runs of float32 and of contenders from the same seeds, along the judged plan."""

    plan: AnyPlan
    contenders: tuple[Contender, ...]
    batch: SeedBatch

    def answer(self, bodies: JudgedBodies) -> "dict[str, JudgedRun]":
        """The runs of float32 and of the contenders, by the name of the body."""
        if self.plan.prediction == LOGITS:
            tokens = check_tokens(self.plan)
            runs = {each.name: _judged_tokens(tokens, each, self.batch, bodies) for each in self.contenders}
            sample = next(iter(runs.values())).reference
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


@dataclass(frozen=True)
class JudgedRun:
    """One contender in one batch: its samples, and float32's of the same seeds along its plan.

    energies [steps, 3, 2]: of the guided output on the float trajectory, and of x0 and x along its own. differences
        [steps, 2, 5]: `direction.sums`. Those on the float trajectory are 0 unless a seed `is_forced` along it.
    agreement, decibels [seeds]: of tokens, which have nothing else but samples.
    """

    samples: NDArray[Any]
    reference: NDArray[Any]
    energies: NDArray[np.float64] | None = None
    differences: NDArray[np.float64] | None = None
    is_forced: bool = False
    agreement: TokenAgreement | None = None
    decibels: NDArray[np.float64] | None = None


def guided(outputs: Sequence[Array], plan: Plan, index: int) -> Array:
    """The guided output of the branches that step `index` evaluates; of several heads the first, the prediction."""
    step = plan.steps[index]
    weights = guidance.weights(plan.guidance, index, -np.inf if step.lam is None else step.lam)
    return combine(tuple(weights[branch] for branch in step.branches), outputs[:: step.heads], np.float32)


def _call(plan: Plan, denoiser: JudgedBody, batch: SeedBatch) -> StepCall:
    return denoiser.step_call(denoiser.compile(plan), len(batch.seeds), batch.conditions)


def _judged_tokens(plan: TokenPlan, contender: Contender, batch: SeedBatch, bodies: JudgedBodies) -> JudgedRun:
    """One batch of one contender: its logits at float32's states, and its own run."""
    along: Any = regroup(contender.plan or plan, contender.groups)
    batch = batch.first(contender.seeds - batch.seeds[0])
    course = open_token_course(bodies(FLOAT), along, batch)
    run = course.run_by(bodies(contender.name).step_call(along, len(batch.seeds), batch.conditions).logits)
    return JudgedRun(run.ids, course.reference.ids, agreement=course.agreement(run), decibels=course.decibels(run))


def _judged_run(
    plan: Plan, contender: Contender, denoiser: JudgedBody, exact: ReferenceRun, reference: JudgedBody
) -> JudgedRun:
    """One batch of one contender: its own run, and its single steps on the float trajectory."""
    start = exact.batch.seeds[0]
    batch, forced = (exact.batch.first(max(count - start, 0)) for count in (contender.seeds, contender.forced_seeds))
    count = len(batch.seeds)
    states = list(batch.finite(plan, _call(plan, denoiser, batch).step_network))
    single, changes = zip(*_single_steps(plan, denoiser, forced, exact, reference), strict=True)
    steps = [
        (each, energies(state.x0, floats.x0[:count]), energies(exact.after(state), exact.after(floats)[:count]))
        for each, state, floats in zip(single, states, exact.states, strict=True)
    ]
    return JudgedRun(
        samples=exact.finished(states),
        reference=exact.sample[:count],
        energies=np.array(steps),
        differences=np.array(changes),
        is_forced=len(forced.seeds) > 0,
    )


def _single_steps(
    plan: Plan, denoiser: JudgedBody, batch: SeedBatch, exact: ReferenceRun, reference: JudgedBody
) -> Iterator[tuple[NDArray[np.float64], Sums]]:
    """The energies of each step on the float trajectory, and of its differences; 0 without seeds."""
    if not (count := len(batch.seeds)):
        yield from [(np.zeros(2), NONE)] * len(plan.steps)
        return
    network, floats = (_first_run(_call(plan, each, batch), plan) for each in (denoiser, reference))
    for i, (step, state) in enumerate(zip(plan.steps, exact.states, strict=True)):
        u, expected = state.u[:count], [output[:count] for output in state.outputs]
        outputs = network(i, step, u)
        of_conditions = NONE
        if batch.conditions:
            changes = differences(step, outputs, network(i, step, moved(u)))
            exact_changes = differences(step, expected, floats(i, step, moved(u)))
            of_conditions = sums(changes, exact_changes, state.x0[:count])
        yield energies(guided(outputs, plan, i), guided(expected, plan, i)), of_conditions


def _first_run(call: StepCall, plan: Plan) -> StepNetwork:
    """The network at single steps of a first run, where no step reads what another wrote."""
    slots = call.slots
    if slots is None:
        return finite_outputs(call, plan)
    return lambda index, step, u: call.carrying(index, step, u, carry_in(plan, step, slots))[0]
