"""Guidance that looks at the data, made static: its decision is measured on trajectories and written into the plan.

Both methods (Castillo et al. 2023, "Adaptive Guidance", arXiv 2312.12487) save evaluations of the unconditional branch
late in sampling, where it says what the conditional one says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg, LinearAg
from fewstep.plans.plan import Plan
from fewstep.runtime.execute import StepState

Array = NDArray[np.floating]

THRESHOLD = 0.991  # the paper's, for noise predictions of text-to-image models


@dataclass(frozen=True)
class Outputs:
    """The outputs of both branches along a plan, [steps, samples, elements]."""

    cond: Array
    uncond: Array


def collect(plan: Plan, batches: Sequence[Iterator[StepState]]) -> Outputs:
    """Outputs of batches that ran along a plan with classifier-free guidance: `Sampler.steps` of some seeds each.

    Of several heads the first is taken.
    """
    if not isinstance(plan.guidance, Cfg) or any(len(step.branches) != 2 for step in plan.steps):
        raise UserError(
            f"plan {plan.name!r} does not evaluate cond and uncond at each step", "compile it with guidance"
        )
    if not batches:
        raise UserError("no trajectories to measure guidance on", "give Sampler.steps of some seeds")
    runs = [[_branches(state) for state in batch] for batch in batches]
    cond, uncond = (
        np.stack([np.concatenate([run[i][branch] for run in runs]) for i in range(len(plan.steps))])
        for branch in (0, 1)
    )
    return Outputs(cond, uncond)


def _branches(state: StepState) -> tuple[Array, Array]:
    first = state.outputs[:: state.step.heads]
    flat = [output.reshape(len(output), -1).astype(np.float64) for output in first]
    return flat[state.step.branches.index("cond")], flat[state.step.branches.index("uncond")]


def similarity(outputs: Outputs) -> NDArray[np.float64]:
    """Cosine of the two branches' outputs at each step, the mean over the samples. [steps] One that is all zero is
    like nothing: 0."""
    dot = (outputs.cond * outputs.uncond).sum(-1)
    norms = np.linalg.norm(outputs.cond, axis=-1) * np.linalg.norm(outputs.uncond, axis=-1)
    cosines = np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
    means: NDArray[np.float64] = cosines.mean(-1)
    return means


def adaptive(weight: float, outputs: Outputs, threshold: float = THRESHOLD) -> Cfg:
    """Guidance that ends where the branches agree: after the first step whose mean similarity reaches the threshold.

    The paper decides for each sample; here the decision is the mean sample's, and part of the plan.
    """
    agreed = np.flatnonzero(similarity(outputs) >= threshold)
    steps = len(outputs.cond)
    guided = steps if len(agreed) == 0 else int(agreed[0]) + 1
    return Cfg((weight,) * guided + (1.0,) * (steps > guided))


def linear(weight: float, outputs: Outputs, after: int, terms: int = 2) -> LinearAg:
    """The unconditional output from evaluation `after` on as a linear combination of `terms` conditional outputs (this
    evaluation's and before) and `terms` - 1 unconditional ones before: least squares over steps and samples together.
    """
    steps = len(outputs.cond)
    if not terms <= after < steps or terms < 1:
        raise UserError(
            f"LinearAg after {after} of {steps} evaluations with {terms} terms", "give terms <= after < evaluations"
        )
    targets, columns = [], []
    for i in range(after, steps):
        past = [outputs.cond[i - j] for j in range(terms)] + [outputs.uncond[i - 1 - j] for j in range(terms - 1)]
        columns.append(np.stack([array.ravel() for array in past], axis=1))
        targets.append(outputs.uncond[i].ravel())
    fitted, *_ = np.linalg.lstsq(np.concatenate(columns), np.concatenate(targets), rcond=None)
    numbers = tuple(float(number) for number in fitted)
    return LinearAg(weight, after, numbers[:terms], numbers[terms:])
