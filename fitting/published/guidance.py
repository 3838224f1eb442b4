"""Guidance that looks at the data, made static: its decision is measured on trajectories and written into the plan.

Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487) saves evaluations of the unconditional branch late in
sampling, where it says what the conditional one says. The paper decides for each sample while it runs (`per_sample`);
`adaptive` makes one decision for all. Full guidance in fewer steps is better at equal evaluations on the model that was
measured, and better than the paper's LinearAG: docs/measured/steering.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND, Cfg
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Rescale
from fewstep.runtime.execute import StepState, combine

Array = NDArray[np.floating]

THRESHOLD = 0.991  # the paper's, for noise predictions of text-to-image models


@dataclass(frozen=True)
class Outputs:
    """The outputs of both branches along a plan, and the noise that each of them implies. [steps, samples, elements]"""

    cond: Array
    uncond: Array
    noises: tuple[Array, Array] | None = None  # of cond and uncond; None for restoration and for plans of old versions


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
    runs = [[_measured(state) for state in batch] for batch in batches]
    parts = [
        np.stack([np.concatenate([run[i][part] for run in runs]) for i in range(len(plan.steps))])
        for part in range(min(len(measured) for run in runs for measured in run))
    ]
    return Outputs(parts[0], parts[1], (parts[2], parts[3]) if len(parts) == 4 else None)


def _measured(state: StepState) -> tuple[Array, ...]:
    """The outputs of cond and uncond, then their noises where the plan tells them."""
    first = state.outputs[:: state.step.heads]
    outputs = [_flat(first[state.step.branches.index(branch)]) for branch in (COND, UNCOND)]
    return *outputs, *_noises(state, outputs)


def _noises(state: StepState, outputs: Sequence[Array]) -> tuple[Array, ...]:
    """(x - alpha x0) / sigma for the x0 that each output stands for. The plan holds its meaning: x0 is linear in the
    rows of the state and in the guided output, whose weights sum to 1, whatever the denoiser predicts."""
    step, rows = state.step, [_flat(row) for row in state.before]
    read = [row for row, coefficient in enumerate(step.input) if coefficient != 0]
    if not step.sigma or step.alpha is None or len(read) != 1:  # of several rows x is none
        return ()
    guided = step.x0 if step.shaping is None or isinstance(step.shaping, Rescale) else step.shaping_of[0]
    known, share = combine(guided[: len(rows)], rows, np.float64), sum(guided[len(rows) :])
    return tuple((rows[read[0]] - step.alpha * (known + share * output)) / step.sigma for output in outputs)


def _flat(array: Array) -> Array:
    return array.reshape(len(array), -1).astype(np.float64)


def similarities(outputs: Outputs) -> NDArray[np.float64]:
    """Cosine of the two branches' noises at each step. [steps, samples] One that is all zero is like nothing: 0."""
    if outputs.noises is None:
        raise UserError(
            "the noise that these outputs imply is not known: the plan restores, or is of an older version",
            "take a plan from noise, compiled again",
        )
    cond, uncond = outputs.noises
    dot = (cond * uncond).sum(-1)
    norms = np.linalg.norm(cond, axis=-1) * np.linalg.norm(uncond, axis=-1)
    cosines: NDArray[np.float64] = np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
    return cosines


def similarity(outputs: Outputs) -> NDArray[np.float64]:
    """`similarities`, the mean over the samples. [steps]"""
    means: NDArray[np.float64] = similarities(outputs).mean(-1)
    return means


def per_sample(weight: float, outputs: Outputs, threshold: float = THRESHOLD) -> list[Cfg]:
    """The paper's decision (algorithm 1): guidance of each sample ends after the first step whose noises reach the
    threshold. `Sampler.sample_each` takes a plan for each.

    Up to that step the guided trajectory, of which `outputs` are, is the sample's own: its decision at run time would
    be the same.
    """
    reached = similarities(outputs) >= threshold
    steps = len(reached)
    ends = np.where(reached.any(0), reached.argmax(0) + 1, steps)
    return [Cfg((weight,) * int(end) + (1.0,) * int(end < steps)) for end in ends]


def adaptive(weight: float, outputs: Outputs, threshold: float = THRESHOLD) -> Cfg:
    """Guidance that ends where the branches agree: after the first step from which on the mean similarity of their
    noises stays at the threshold or above.

    The paper ends it at the first step at the threshold. Near pure noise every denoiser's noise is x itself, so that
    the first steps reach any threshold and say nothing; a decision that is measured beforehand can look at all steps.
    Where noises agree at every step, guidance ends after the first evaluation: look at `similarity`, then choose.
    """
    apart = np.flatnonzero(similarity(outputs) < threshold)
    steps = len(outputs.cond)
    guided = min(steps, (int(apart[-1]) + 1 if len(apart) else 0) + 1)
    return Cfg((weight,) * guided + (1.0,) * (steps > guided))
