"""Data-dependent guidance in static plans: its decisions are made in advance, from measurements on trajectories.

Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487) saves evaluations of the unconditional branch late in
sampling, where it agrees with the conditional one. On the measured model, full guidance in fewer steps was better at
the same number of evaluations, even if one decision was made for all samples (lab/trials.md).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND, Cfg
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Rescale
from fewstep.runtime.sampling.execute import StepState, combine

Array = NDArray[np.floating]

THRESHOLD = 0.991  # from the paper, for text-to-image models that predict noise


def similarities(plan: Plan, batches: Sequence[Iterator[StepState]]) -> NDArray[np.float64]:
    """Return the cosine similarity [steps, samples] between the noises that the conditional and the unconditional
    branch predict. It is 0 if one of them is zero. Near pure noise it is close to 1 for every bounded x0 that the
    branches predict, since both noises are nearly x itself. So there it does not tell whether the branches agree.

    batches: the states of trajectories with classifier-free guidance, each from `Sampler.steps` for some seeds. If the
        network has several outputs, the first is used.
    """
    if not isinstance(plan.guidance, Cfg) or any(len(step.branches) != 2 for step in plan.steps):
        raise UserError(
            f"plan {plan.name!r} does not evaluate cond and uncond at each step", "compile it with guidance"
        )
    if not batches:
        raise UserError(
            "there are no trajectories to measure guidance on", "give the results of Sampler.steps for some seeds"
        )
    return np.concatenate([np.stack([_cosines(state) for state in batch]) for batch in batches], axis=1)


def guidance_per_sample(weight: float, cosines: NDArray[np.float64], threshold: float = THRESHOLD) -> list[Cfg]:
    """Return the guidance of each sample by the paper's algorithm 1: guidance stops after the first step at which the
    similarity reaches the threshold. `Sampler.sample_each` takes one plan for each sample.

    `cosines` [steps, samples] come from the guided trajectory. Up to that step the sample's own trajectory is the same,
    so a decision at run time would be too.
    """
    reached = cosines >= threshold
    steps = len(reached)
    ends = np.where(reached.any(0), reached.argmax(0) + 1, steps)
    return [Cfg((weight,) * int(end) + (1.0,) * int(end < steps)) for end in ends]


def _cosines(state: StepState) -> NDArray[np.float64]:
    first = state.outputs[:: state.step.heads]
    cond, uncond = _noises(state, [_flat(first[state.step.branches.index(branch)]) for branch in (COND, UNCOND)])
    dot = (cond * uncond).sum(-1)
    norms = np.linalg.norm(cond, axis=-1) * np.linalg.norm(uncond, axis=-1)
    cosines: NDArray[np.float64] = np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
    return cosines


def _noises(state: StepState, outputs: Sequence[Array]) -> list[Array]:
    """Return (x - alpha x0) / sigma for the x0 that each output implies. The plan determines that x0, whatever the
    denoiser predicts: x0 is linear in the rows of the state and in the guided output, whose weights sum to 1."""
    step, rows = state.step, [_flat(row) for row in state.before]
    read = [row for row, coefficient in enumerate(step.input) if coefficient != 0]
    if not step.sigma or step.alpha is None or len(read) != 1:  # x is not a single row
        raise UserError(
            "the noise that these outputs imply is not known: the plan restores, or is of an older version",
            "compile a plan that starts from noise",
        )
    guided = step.x0 if step.shaping is None or isinstance(step.shaping, Rescale) else step.shaping_of[0]
    known, share = combine(guided[: len(rows)], rows, np.float64), sum(guided[len(rows) :])
    return [(rows[read[0]] - step.alpha * (known + share * output)) / step.sigma for output in outputs]


def _flat(array: Array) -> Array:
    return array.reshape(len(array), -1).astype(np.float64)
