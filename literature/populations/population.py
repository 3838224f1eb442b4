"""Populations: several particles for each sample, which are weighted during sampling. Particles of high weight are
copied, and others end.

    def weigh(state):  # -> increments of the log weights, one per particle
        return 4.0 * brightness(state.x0)

    particles = population(sampler, plan, weigh, seeds=[0], particles=8, condition={"class": [3]})
    x = particles.best()

The hook `weigh` sees an evaluation before the update: rows, outputs and x0. Particles are resampled there, so that the
next draw separates copies, and no evaluation is wasted. With different numbers of particles and different choices, the
same loop is FK steering (Singhal et al. 2025, arXiv 2501.06848), FK correctors (Skreta et al. 2025, arXiv 2503.02819),
SVDD (Li et al. 2024, arXiv 2408.08252) and best of N. Noise is a function of the seed, the draw and the particle's
index, so a seed's population does not depend on the other seeds of the call, nor on `batch`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans import noise
from fewstep.plans.any_plan import PlanLike, check_compiled
from fewstep.plans.argument_checks import check_integer, refuse_options
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.arrays import as_numbers
from fewstep.runtime.bundle import conditions
from fewstep.runtime.sampling.execute import (
    Array,
    StepEvaluation,
    StepNetwork,
    begin,
    build_evaluation,
    combine,
    network_input,
    update,
)
from fewstep.runtime.sampling.finite_checks import check_finite, finite_outputs
from fewstep.runtime.sampling.request import GivenTensors, check_given, check_seeds
from fewstep.runtime.sampling.sampler import Sampler

Weigh = Callable[[StepEvaluation], Any]  # has a method `follow(ancestors)` if it stores a state for each particle
Floats = NDArray[np.float64]
Choice = Literal["systematic", "one", "best"]


@dataclass(frozen=True)
class Population:
    """The final particles [G, M, *x_shape] of G seeds.

    log_weights: [G, M], up to a constant for each seed.
    ancestors: for each resampling, the index [G, M] of the particle that each one continues.
    evaluations: number of evaluations of the network for one particle.
    """

    samples: Array
    log_weights: Floats
    ancestors: tuple[NDArray[np.intp], ...]
    evaluations: int

    def best(self) -> Array:
        """Return the particle of the highest weight for each seed, [G, *x_shape]."""
        heaviest: Array = self.samples[np.arange(len(self.samples)), self.log_weights.argmax(1)]
        return heaviest

    def weights(self) -> Floats:
        """Return the weights [G, M], which sum to 1 for each seed."""
        w = np.exp(self.log_weights - self.log_weights.max(1, keepdims=True))
        return np.asarray(w / w.sum(1, keepdims=True))


def population(
    sampler: Sampler,
    plan: PlanLike,
    weigh: Weigh,
    seeds: Sequence[int] = (0,),
    particles: int = 8,
    condition: conditions.ConditionValues | None = None,
    *,
    given: GivenTensors | None = None,
    at: Iterable[int] | None = None,
    threshold: float = 0.5,
    choice: Choice = "systematic",
    batch: int = 64,
    **others: NoReturn,
) -> Population:
    """Sample a population of particles for each seed.

    Args:
        plan: as in `Sampler.sample`. A compiled plan includes its guidance.
        weigh: `weigh(state)` -> increments [P] of the log weights, where P = seeds x particles, seed by seed. -inf ends
            a particle, provided that another particle of the seed remains. If it has a method `follow`, that is called
            at each resampling with the index of the particle that each one continues, [P].
        condition: one value per seed, for each condition. given: tensors [len(seeds), *x_shape].
        at: the steps at which particles are resampled; None means all but the last. [] only computes weights, for best
            of N.
        threshold: a seed's particles are resampled if their effective number is below this fraction of them; 1
            resamples at each of the steps.
        choice: "systematic" copies in proportion to the weights; "one" and "best" continue a single particle, as SVDD
            does.
        batch: number of particles in a call of the network.
    """
    refuse_options(others)
    numbers, plan = check_seeds(seeds), sampler.compile(plan)
    check_compiled(plan)
    takes = sampler.bundle.manifest
    particles, batch = check_integer("particles", particles, 1), check_integer("batch", batch, 1)
    values = conditions.check(takes.conditions, condition, len(numbers))
    tensors = check_given(plan.given, given, condition, takes.x_shape, len(numbers))
    spread = {name: np.repeat(array, particles, 0) for name, array in values.items()}
    count = len(numbers) * particles
    parts = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    networks = [
        sampler.step_network(plan, len(part), {name: array[part.start : part.stop] for name, array in spread.items()})
        for part in parts
    ]

    def network(index: int, step: Step, u: Array) -> list[Array]:
        batches = [each(index, step, u[part.start : part.stop]) for each, part in zip(networks, parts, strict=True)]
        return [np.concatenate(outputs) for outputs in zip(*batches, strict=True)]

    return evolve(
        plan,
        network,
        weigh,
        numbers,
        particles,
        takes.x_shape,
        {name: np.repeat(tensor, particles, 0) for name, tensor in tensors.items()},
        at=at,
        threshold=threshold,
        choice=choice,
    )


def evolve(
    plan: Plan,
    network: StepNetwork,
    weigh: Weigh,
    seeds: Sequence[int],
    particles: int,
    shape: tuple[int, ...],
    given: dict[str, Array] | None = None,
    *,
    at: Iterable[int] | None = None,
    threshold: float = 0.5,
    choice: Choice = "systematic",
) -> Population:
    """Run `population` with any network that evaluates all particles [P, *shape]. `given` contains tensors [P,
    *shape]."""
    steps, groups = len(plan.steps), len(seeds)
    at = _resampling_steps(plan, particles, at, threshold, choice)
    _check_hook(weigh, plan)

    def draws(number: int) -> Array:
        return np.concatenate([noise.particle_normals(seed, number, shape, particles) for seed in seeds])

    network = finite_outputs(network, plan)
    state: Sequence[Array] = begin(plan, draws, np.float32, given or {})
    log_weights, kept = np.zeros((groups, particles)), []
    for index, step in enumerate(plan.steps):
        with np.errstate(all="ignore"):
            u = network_input(plan, step, state, np.float32)
            evaluation = build_evaluation(plan, index, state, u, network(index, step, u))
        increments = _increments(weigh, evaluation, groups, particles)
        with np.errstate(over="ignore"):
            log_weights = log_weights + increments
        if (ended := np.isneginf(log_weights).all(1)).any():
            seed = seeds[int(ended.argmax())]
            raise UserError(
                f"the log weight of each particle of seed {seed} is -inf after step {index}",
                "return a finite log weight for at least one particle from weigh, or give more particles",
            )
        if index in at:
            wanted = (
                effective_count(log_weights) < threshold * particles
                if choice == "systematic"
                else np.ones(groups, bool)
            )
            if wanted.any():
                chosen, log_weights = _resample(log_weights, wanted, choice, seeds, index)
                kept.append(chosen)
                flat = (chosen + np.arange(groups)[:, None] * particles).ravel()
                evaluation = _select_particles(evaluation, flat)
                if (follow := getattr(weigh, "follow", None)) is not None:
                    follow(flat)
        with np.errstate(all="ignore"):
            state = update(plan, evaluation, draws)
        for row in state:
            check_finite(row, "the sample", index, step, plan)
    x = combine(plan.output, state, np.float32)
    check_finite(x, "the sample", steps - 1, plan.steps[-1], plan)
    return Population(x.reshape(groups, particles, *shape), log_weights, tuple(kept), steps)


def _check_hook(weigh: Weigh, plan: Plan) -> None:
    """Raise UserError if the hook is not a function, or was made for a different plan: its weights depend on the
    plan's steps. The range groups of the two plans may differ."""
    if not callable(weigh):
        raise UserError(f"weigh {weigh!r} is not a function", "give weigh(state) -> increments [particles]")
    made_for = getattr(weigh, "plan", None)
    if isinstance(made_for, Plan) and _drop_groups(made_for) != _drop_groups(plan):
        raise UserError(
            f"weigh was made for plan {made_for.name!r}, and plan {plan.name!r} runs", "make it for the plan that runs"
        )


def _drop_groups(plan: Plan) -> list[Step]:
    return [msgspec.structs.replace(step, group=0) for step in plan.steps]


def _increments(weigh: Weigh, state: StepEvaluation, groups: int, particles: int) -> Floats:
    returned, fix = weigh(state), f"return one number for each of the {groups * particles} particles; -inf ends one"
    increments = as_numbers(returned, f"what weigh returned at step {state.index}", fix, np.float64)
    endless = bool((np.isnan(increments) | np.isposinf(increments)).any())
    if increments.shape != (groups * particles,) or endless:
        raise UserError(
            f"weigh returned an array of shape {list(increments.shape)}{' with NaN or +inf' * endless} at step "
            f"{state.index}",
            fix,
        )
    return increments.reshape(groups, particles)


def _resample(
    log_weights: Floats, wanted: NDArray[np.bool_], choice: Choice, seeds: Sequence[int], index: int
) -> tuple[NDArray[np.intp], Floats]:
    """Return the ancestors [G, M], and the log weights afterwards, which are 0 in a resampled group."""
    count = log_weights.shape[1]
    chosen = np.tile(np.arange(count), (len(seeds), 1))
    after = log_weights.copy()
    for group in np.flatnonzero(wanted).tolist():
        chosen[group] = ancestors(log_weights[group], choice, noise.uniform(seeds[group], index))
        after[group] = 0.0
    return chosen, after


def _select_particles(evaluation: StepEvaluation, places: NDArray[np.intp]) -> StepEvaluation:
    """Return the evaluation for other particles: index i of the result is particle places[i]."""
    return StepEvaluation(
        evaluation.index,
        evaluation.step,
        [row[places] for row in evaluation.before],
        evaluation.u[places],
        [output[places] for output in evaluation.outputs],
        None if evaluation.shaped is None else evaluation.shaped[places],
    )


def _resampling_steps(
    plan: Plan, particles: int, at: Iterable[int] | None, threshold: float, choice: Choice
) -> Collection[int]:
    """Return the steps at which particles are resampled. Raises UserError for steps after which no draw would separate
    copies."""
    particles = check_integer("particles", particles, 1)
    if choice not in ("systematic", "one", "best"):
        raise UserError(f"unknown choice {choice!r}", "give systematic, one or best")
    if not (isinstance(threshold, Real) and threshold >= 0):
        raise UserError(f"threshold {threshold!r} is out of range", "give a share of the particles, from 0 to 1")
    if not isinstance(at, Iterable | None):
        raise UserError(f"at {at!r} is not a list of steps", f"give at=[{at!r}]")
    last = len(plan.steps) - 1
    at = (
        range(last)
        if at is None
        else [check_integer(f"plan {plan.name!r} has no step", index, 0, last) for index in at]
    )
    if at and particles > 1 and not any(plan.steps[index].draws for index in range(min(at), len(plan.steps))):
        raise UserError(
            f"plan {plan.name!r} draws no noise after its start, so copies of a particle stay equal",
            "use ddpm, dpmpp_2m_sde, renoise or flow_ancestral, or give at=[] for the best of N",
        )
    return at


def effective_count(log_weights: Floats) -> Floats:
    """Return the effective number of particles of each group, (sum w)^2 / sum w^2, from log weights [G, M]."""
    w = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return np.asarray(w.sum(1) ** 2 / (w**2).sum(1))


def ancestors(log_weights: Floats, choice: Choice, chance: float) -> NDArray[np.intp]:
    """Return the index [M] of the particle that each particle of a group continues, from log weights [M].

    "systematic": copies in proportion to the weights, rounded with one uniform random number for all (Kitagawa 1996).
    "one": all continue one particle, drawn by its weight. "best": all continue the particle of the highest weight.
    """
    count = len(log_weights)
    if choice == "best":
        return np.full(count, np.argmax(log_weights))
    share = np.exp(log_weights - log_weights.max())
    ends = np.cumsum(share) / share.sum()
    places = np.full(count, chance) if choice == "one" else (np.arange(count) + chance) / count
    return np.minimum(np.searchsorted(ends, places, side="right"), count - 1)
