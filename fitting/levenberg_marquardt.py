"""Damped least squares on the final sample, over all free numbers together (Levenberg 1944, Marquardt 1963).

Errors of single steps neither add up nor keep their order along the trajectory, so only the final sample is compared
with the teacher. The objective is the mean PSNR: each iteration weights a seed's squared error by its inverse. Damping
keeps a step small, and the anchor keeps the sum of all steps near the start plan. Both are chosen by rollouts on the
selection seeds, for which no Jacobian is measured. A candidate that gains much less there than on the seeds of the fit
is rejected.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block
from fewstep.fitting.free_numbers import Number, add_to_numbers, subtract_numbers
from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.recurrence import Recurrence, build_plan
from fewstep.fitting.rollouts import FitSampler
from fewstep.measure.rollouts.metrics import psnr

Array = NDArray[np.float64]

RESTRAINTS = ((1e-5, 1e-5), (1e-3, 1e-4), (3e-2, 1e-3), (1.0, 1e-2))  # damping, anchor; relative to column energies
GAP = 0.5  # dB by which a gain may be smaller on the selection seeds than on the seeds of the fit
ERRORS = 2.0  # standard errors that this gap, or a gain, must exceed
SINGULAR = 1e-12  # share of all columns' energy that is added, since two numbers may have the same effect
SECANTS = 3  # steps between two measurements of the columns
NOTHING = 1e-20  # lower bound of a sample's squared error
ENOUGH = 0.03  # dB that an iteration must gain for another one


@dataclass(frozen=True)
class Gain:
    """A gain in mean PSNR over another plan on the same seeds, in dB, and its standard error."""

    mean: float
    error: float

    @property
    def is_significant(self) -> bool:
        return self.mean > ERRORS * self.error

    @classmethod
    def from_psnr(cls, fitted: Array, nominal: Array) -> "Gain":
        """Return the gain of the PSNRs `fitted` [seeds] over `nominal` [seeds], both of the same seeds."""
        return cls(float(np.mean(fitted - nominal)), float(np.std(fitted - nominal, ddof=1) / sqrt(len(fitted))))


def is_overfitted(on_fit: Gain, on_selection: Gain) -> bool:
    """Return True if the gain on the selection seeds is smaller than on the seeds of the fit by more than GAP, and by
    more than chance explains."""
    gap = on_fit.mean - on_selection.mean
    return gap > GAP and gap > ERRORS * sqrt(on_fit.error**2 + on_selection.error**2)


@dataclass(frozen=True)
class FitSeeds:
    """The blocks of seeds on which the Jacobian is measured (`fit`), and those on which damping and anchor strength are
    chosen (`selection`)."""

    fit: tuple[Block, ...]
    selection: tuple[Block, ...]


@dataclass(frozen=True)
class NominalPsnr:
    """PSNRs of the nominal plan on both sets of seeds, [seeds] each."""

    fit: Array
    selection: Array


@dataclass(frozen=True)
class Iterate:
    """Numbers after a step, with their gain over the nominal plan on the selection seeds, and their samples
    [seeds, *x_shape] on the seeds of the fit."""

    numbers: Recurrence
    on_selection: Gain
    samples: NDArray[np.floating]


def seed_weights(jacobian: Jacobian) -> Array:
    """Return the weight of each seed [seeds]: the inverse of its squared error, scaled to sum to 1. With these weights,
    least squares raises the mean PSNR."""
    weights = 1 / np.maximum(jacobian.error, max(1e-12 * jacobian.error.max(), NOTHING))
    return np.asarray(weights / weights.sum())


def column_energies(jacobian: Jacobian) -> Array:
    """Return the mean squared norm of each column of the Jacobian, [P], by which damping and anchor are scaled."""
    return np.asarray(seed_weights(jacobian) @ np.diagonal(jacobian.gram, axis1=1, axis2=2))


def normal_equations(jacobian: Jacobian) -> tuple[Array, Array]:
    """Return H [P, P] and g [P] of the normal equations H d = g: the weighted means over seeds of J^T J and J^T r,
    where r is the targets minus the samples."""
    weights = seed_weights(jacobian)
    return np.tensordot(weights, jacobian.gram, 1), weights @ jacobian.slope


def solve_step(H: Array, slope: Array, energies: Array, so_far: Array, damping: float, anchor: float) -> Array:
    """Return a step in units of the numbers' sizes, [P].

    It solves (H + damping diag H + anchor E) d = g - anchor E (theta - theta_0), with E the energies of the columns at
    the origin, and theta - theta_0 the sum of previous steps, `so_far`.
    """
    restraint = damping * np.diag(H) + anchor * energies + SINGULAR * np.trace(H)
    return np.asarray(np.linalg.solve(H + np.diag(restraint), slope - anchor * energies * so_far))


@dataclass(frozen=True)
class Refinement:
    """The inputs that all steps of a refinement share. The regularization pulls towards `origin`.

    measure: a function that returns the Jacobian of the samples of some blocks.
    """

    rolled: FitSampler
    origin: Recurrence
    free: Sequence[Number]
    seeds: FitSeeds
    nominal: NominalPsnr
    measure: Callable[[Recurrence, tuple[Block, ...]], Jacobian]

    @property
    def number_sizes(self) -> Array:
        return np.array([number.size for number in self.free])

    def propose_steps(self, now: Recurrence, H: Array, slope: Array, energies: Array) -> list[Recurrence]:
        """Return candidates for the coefficients and times after a step, one for each pair of damping and anchor
        strength."""
        so_far = subtract_numbers(now, self.origin, self.free) / self.number_sizes
        steps = [solve_step(H, slope, energies, so_far, *restraint) for restraint in RESTRAINTS]
        return [add_to_numbers(now, self.free, step * self.number_sizes) for step in steps]

    def take_step(self, now: Recurrence, least: float, jacobian: Jacobian, energies: Array) -> Iterate | None:
        """Return the candidate step with the largest gain on the selection seeds, if it gains more than `least` dB and
        is not overfitted; otherwise None."""
        candidates = self.propose_steps(now, *normal_equations(jacobian), energies)
        tried = self.rolled.try_plans([build_plan(numbers) for numbers in candidates], self.seeds.selection)
        gains = [
            (Gain.from_psnr(qualities, self.nominal.selection), numbers)
            for qualities, numbers in zip(tried, candidates, strict=True)
            if qualities is not None
        ]
        targets = np.concatenate([block.required_target for block in self.seeds.fit])
        for on_selection, numbers in sorted(gains, key=lambda pair: -pair[0].mean):
            if on_selection.mean <= least:
                return None
            samples = np.concatenate(list(self.rolled.sample_blocks(build_plan(numbers), self.seeds.fit)))
            if not is_overfitted(Gain.from_psnr(psnr(samples, targets), self.nominal.fit), on_selection):
                return Iterate(numbers, on_selection, samples)
        return None


def refine(work: Refinement, begin: Recurrence, iterations: int, measured: int) -> Iterator[tuple[Iterate, ...]]:
    """Yield the steps of each iteration. Each step improves the result on the selection seeds, so the last one is the
    best. A step changes all free coefficients and times together.

    The Jacobian is measured on `measured` blocks at first, and on twice as many in each later iteration. Between two
    measurements it is corrected by the effect of the previous step, for up to SECANTS steps, without extra calls.
    """
    now, gain = (
        begin,
        Gain.from_psnr(work.rolled.measure_psnr(build_plan(begin), work.seeds.selection), work.nominal.selection).mean,
    )
    energies: Array | None = None
    count = measured
    for _ in range(iterations):
        blocks = work.seeds.fit[:count]
        seeds, is_whole = sum(len(block.seeds) for block in blocks), count >= len(work.seeds.fit)
        jacobian = work.measure(now, blocks)
        energies = column_energies(jacobian) if energies is None else energies
        before, steps = gain, list[Iterate]()
        for _ in range(1 + SECANTS):
            taken = work.take_step(now, gain, jacobian, energies)
            if taken is None:
                break
            steps.append(taken)
            step, gained = (
                subtract_numbers(taken.numbers, now, work.free) / work.number_sizes,
                taken.on_selection.mean - gain,
            )
            now, gain = taken.numbers, taken.on_selection.mean
            if gained < ENOUGH:
                break
            jacobian = jacobian.broyden_update(step, taken.samples[:seeds])
        yield tuple(steps)
        if is_whole and gain - before < ENOUGH:
            return
        count = min(2 * count, len(work.seeds.fit))
