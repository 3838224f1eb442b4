"""Damped least squares on the sample that comes out, over all free numbers together (Levenberg 1944, Marquardt 1963).

Errors of single steps neither add up nor keep their order on the way, so the end alone is compared with the teacher.
The objective is the mean PSNR: each iteration weighs a seed's squared error by its inverse. Damping
keeps a step small, the anchor keeps all steps together near the plan that they began at. Both are chosen by rollouts on
seeds that no column was measured on, and a candidate that gains there much less than on its own seeds is no candidate.
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

RESTRAINTS = ((1e-5, 1e-5), (1e-3, 1e-4), (3e-2, 1e-3), (1.0, 1e-2))  # damping and anchor, of the columns' energies
GAP = 0.5  # dB by which a gain may be smaller on the selection seeds than on the seeds of the fit
ERRORS = 2.0  # standard errors, both of that gap and of a gain that counts
SINGULAR = 1e-12  # of all columns' energy: two numbers may do the same
SECANTS = 3  # steps between two measurements of the columns
NOTHING = 1e-20  # squared error of a sample that is its target
ENOUGH = 0.03  # dB of an iteration that is worth another


@dataclass(frozen=True)
class Gain:
    """A gain in mean PSNR over the nominal plan, in dB, paired seed by seed, and its standard error."""

    mean: float
    error: float

    @property
    def is_significant(self) -> bool:
        return self.mean > ERRORS * self.error

    @classmethod
    def from_psnr(cls, fitted: Array, nominal: Array) -> "Gain":
        """The gain of PSNRs [seeds] over others of the same seeds."""
        return cls(float(np.mean(fitted - nominal)), float(np.std(fitted - nominal, ddof=1) / sqrt(len(fitted))))


def is_overfitted(on_fit: Gain, on_selection: Gain) -> bool:
    """True where the selection seeds gain less than the fit's by more than GAP and chance."""
    gap = on_fit.mean - on_selection.mean
    return gap > GAP and gap > ERRORS * sqrt(on_fit.error**2 + on_selection.error**2)


@dataclass(frozen=True)
class FitSeeds:
    """The blocks for the columns, and the blocks for the choice of damping and anchor."""

    fit: tuple[Block, ...]
    selection: tuple[Block, ...]


@dataclass(frozen=True)
class NominalPsnr:
    """PSNRs of the nominal plan on both sets of seeds, [seeds] each."""

    fit: Array
    selection: Array


@dataclass(frozen=True)
class Iterate:
    """Numbers after a step, with what they gain over the nominal plan on the selection seeds. samples: [seeds,
    *x_shape], of the fit's seeds."""

    numbers: Recurrence
    on_selection: Gain
    samples: NDArray[np.floating]


def seed_weights(jacobian: Jacobian) -> Array:
    """The inverse of each seed's squared error, so that least squares raise the mean PSNR. They sum to 1."""
    weights = 1 / np.maximum(jacobian.error, max(1e-12 * jacobian.error.max(), NOTHING))
    return np.asarray(weights / weights.sum())


def column_energies(jacobian: Jacobian) -> Array:
    """The energy of each column, [P]: the scale of a restraint."""
    return np.asarray(seed_weights(jacobian) @ np.diagonal(jacobian.gram, axis1=1, axis2=2))


def normal_equations(jacobian: Jacobian) -> tuple[Array, Array]:
    """H [P, P] and g [P] of a step: the weighed means of the seeds' Gram matrices and slopes."""
    weights = seed_weights(jacobian)
    return np.tensordot(weights, jacobian.gram, 1), weights @ jacobian.slope


def solve_step(H: Array, slope: Array, energies: Array, so_far: Array, damping: float, anchor: float) -> Array:
    """A step in the numbers' sizes, [P].

    Solves (H + damping diag H + anchor E) d = g - anchor E (theta - theta_0), with E the energies of the columns at the
    origin, and theta - theta_0 the way so far.
    """
    restraint = damping * np.diag(H) + anchor * energies + SINGULAR * np.trace(H)
    return np.asarray(np.linalg.solve(H + np.diag(restraint), slope - anchor * energies * so_far))


@dataclass(frozen=True)
class Refinement:
    """The constants of all steps of a refinement; the anchor is at `origin`.

    measure: the columns of the free numbers on some blocks.
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
        """The numbers after a step, by each of the restraints."""
        so_far = subtract_numbers(now, self.origin, self.free) / self.number_sizes
        steps = [solve_step(H, slope, energies, so_far, *restraint) for restraint in RESTRAINTS]
        return [add_to_numbers(now, self.free, step * self.number_sizes) for step in steps]

    def take_step(self, now: Recurrence, least: float, jacobian: Jacobian, energies: Array) -> Iterate | None:
        """The best of the steps that gain more than `least` dB on the selection seeds and hold on the seeds of the fit;
        None without one."""
        ways = self.propose_steps(now, *normal_equations(jacobian), energies)
        tried = self.rolled.try_plans([build_plan(numbers) for numbers in ways], self.seeds.selection)
        gains = [
            (Gain.from_psnr(qualities, self.nominal.selection), numbers)
            for qualities, numbers in zip(tried, ways, strict=True)
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
    """The steps of each iteration, which gain on the selection seeds; the last is the best. All free numbers move
    together.

    Columns are measured on `measured` blocks at first, and on twice as many in each later iteration. Between two
    measurements up to SECANTS steps correct the columns by what the step before did, which costs no calls of their own.
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
