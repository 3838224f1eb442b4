"""Runs of bodies along a plan of continuous samples, each compared with the float32 run from the same seeds.

In a *forced* step the body receives the state of the float32 run instead of its own, so that errors of earlier steps do
not affect its output.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import signal_and_noise_energy
from fewstep.measure.rollouts.output_differences import NONE, Sums, difference_sums, output_differences, roll_batch
from fewstep.measure.rollouts.reference_run import ReferenceRun, run_reference
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sampling import FLOAT
from fewstep.plans import guidance
from fewstep.plans.any_plan import Edges
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.bundle.figures import ReferenceCheck
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.sampling.execute import Array, StepNetwork, carry_in, combine
from fewstep.runtime.sampling.finite_checks import finite_outputs
from fewstep.runtime.sampling.step_call import StepCall


class JudgedBody(Protocol):
    """The interface of a body that can be compared with float32; `Sampler` has it. `step_call` takes a compiled plan,
    the number of samples in a batch, and the values of each condition."""

    def compile(self, plan: Plan, /) -> Plan: ...

    def step_call(self, plan: Plan, samples: int, conditions: ConditionRecords, /) -> StepCall: ...


JudgedBodies = Callable[[str], Any]  # a function that returns a body by name: a JudgedBody, or for tokens a Sampler


@dataclass(frozen=True)
class Contender:
    """A body to be compared with float32 on the first `seeds` seeds. On the first `forced_seeds` of these, it is also
    compared step by step, from the states of the float32 trajectory.

    plan: a separate plan along which body and float32 are sampled; None for the plan of the comparison, which token
        bodies always use.
    """

    name: str
    groups: Edges  # values of lambda between its range groups
    seeds: int
    forced_seeds: int = 0
    plan: Plan | None = None


class StepSums(NamedTuple):
    """Sums over the seeds of a batch at one step. Sums of several batches add up, field by field.

    x0, x: `signal_and_noise_energy` [2] of the predicted sample, and of x after the step, along the body's own run.
    forced: `signal_and_noise_energy` [2] of the guided output of the forced step; 0 without `forced_seeds`.
    differences: `output_differences.difference_sums` [2, 5] of the forced step; 0 also without conditions.
    """

    x0: NDArray[np.float64]
    x: NDArray[np.float64]
    forced: NDArray[np.float64]
    differences: Sums
    forced_seeds: int


@dataclass(frozen=True)
class JudgedRun:
    """One contender in one batch: its samples, and the float32 samples of the same seeds along the contender's plan.

    agreement, decibels [seeds]: only for tokens, which have no other measures besides samples.
    check: the check of float32's samples, made in the first batch of continuous samples.
    """

    samples: NDArray[Any]
    reference: NDArray[Any]
    steps: tuple[StepSums, ...] = ()  # one for each step of a continuous plan; empty for tokens and for float32 itself
    agreement: TokenAgreement | None = None
    decibels: NDArray[np.float64] | None = None
    check: ReferenceCheck | None = None


def combine_branches(outputs: Sequence[Array], plan: Plan, index: int) -> Array:
    """Return the guided output of step `index` from the outputs of its branches. If the network has several outputs,
    only the first, its prediction, is used."""
    step = plan.steps[index]
    weights = guidance.branch_weights(plan.guidance, index, -np.inf if step.lam is None else step.lam)
    return combine(tuple(weights[branch] for branch in step.branches), outputs[:: step.heads], np.float32)


def run_float32(plan: Plan, batch: SeedBatch, bodies: JudgedBodies) -> ReferenceRun:
    """Return float32's run of a batch."""
    return run_reference(plan, batch, _call(plan, bodies(FLOAT), batch).step_network)


def _call(plan: Plan, body: JudgedBody, batch: SeedBatch) -> StepCall:
    return body.step_call(body.compile(plan), len(batch.seeds), batch.conditions)


def judge_run(
    plan: Plan, contender: Contender, body: JudgedBody, exact: ReferenceRun, reference: JudgedBody
) -> JudgedRun:
    """Judge one contender in one batch: its own run, and its forced steps. `exact` is the run of `reference`,
    float32."""
    start = exact.batch.seeds[0]
    batch, forced = (exact.batch.first(max(count - start, 0)) for count in (contender.seeds, contender.forced_seeds))
    count = len(batch.seeds)
    states = list(batch.run_finite(plan, _call(plan, body, batch.of_body(contender.name)).step_network))
    forced_steps = _compare_forced_steps(plan, contender.name, body, forced, exact, reference)
    steps = tuple(
        StepSums(
            x0=signal_and_noise_energy(state.x0, floats.x0[:count]),
            x=signal_and_noise_energy(exact.next_x(state), exact.next_x(floats)[:count]),
            forced=of_output,
            differences=of_differences,
            forced_seeds=len(forced.seeds),
        )
        for state, floats, (of_output, of_differences) in zip(states, exact.states, forced_steps, strict=True)
    )
    return JudgedRun(exact.final_samples(states), exact.sample[:count], steps)


def _compare_forced_steps(
    plan: Plan, name: str, body: JudgedBody, batch: SeedBatch, exact: ReferenceRun, reference: JudgedBody
) -> Iterator[tuple[NDArray[np.float64], Sums]]:
    """Yield `StepSums.forced` and `StepSums.differences` of each step. The batch has the seeds of forced steps."""
    if not (count := len(batch.seeds)):
        yield from [(np.zeros(2), NONE)] * len(plan.steps)
        return
    pairs = ((body, batch.of_body(name)), (reference, batch))
    network, floats = (_single_step_network(_call(plan, each, part), plan, exact) for each, part in pairs)
    for i, (step, state) in enumerate(zip(plan.steps, exact.states, strict=True)):
        u, expected = state.u[:count], [output[:count] for output in state.outputs]
        outputs = network(i, step, u)
        of_differences = NONE
        if batch.conditions:
            changes = output_differences(step, outputs, network(i, step, roll_batch(u)))
            exact_changes = output_differences(step, expected, floats(i, step, roll_batch(u)))
            of_differences = difference_sums(changes, exact_changes, state.x0[:count])
        yield (
            signal_and_noise_energy(combine_branches(outputs, plan, i), combine_branches(expected, plan, i)),
            of_differences,
        )


def _single_step_network(call: StepCall, plan: Plan, exact: ReferenceRun) -> StepNetwork:
    """Return the network for single steps from the states of the float32 trajectory. At each step it receives the
    carried tensors of the float32 run at that step, because several steps of a plan file may share a slot."""

    def network(index: int, step: Step, u: Array) -> Sequence[Array]:
        if (before := exact.states[index - 1].slots if index else call.slots) is None:
            return call(index, step, u)
        return call.call_carrying(index, step, u, carry_in(plan, step, before.select_samples(range(len(u)))))[0]

    return finite_outputs(network, plan)
