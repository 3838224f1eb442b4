"""Damped least squares on the sample that comes out, over all free numbers together (Levenberg 1944, Marquardt 1963).

Errors of single steps neither add up nor keep their order on the way, so the end alone is compared with the teacher.
The objective is the mean PSNR: each seed's squared error is weighed by its inverse, anew in every iteration. Damping
keeps a step small, the anchor keeps all steps together near the plan that they began at. Both are chosen by rollouts on
seeds that no column was measured on, and a candidate that gains there much less than on its own seeds is no candidate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, qualities
from fewstep.fitting.free import Number, difference, moved
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.fitting.sensitivity import Sensitivity
from fewstep.plans.errors import UserError
from fewstep.runtime.sampler import Sampler

Array = NDArray[np.float64]

RESTRAINTS = ((1e-5, 1e-5), (1e-3, 1e-4), (3e-2, 1e-3), (1.0, 1e-2))  # damping and anchor, of the columns' energies
GAP = 0.5  # dB by which a gain may be smaller on the selection seeds than on those of the fit
ERRORS = 2.0  # standard errors, both of that gap and of a gain that counts
NOTHING = 1e-20  # squared error of a sample that is its target
ENOUGH = 0.03  # dB of an iteration that is worth another


@dataclass(frozen=True)
class Gain:
    """A gain in mean PSNR over the nominal plan, in dB, paired seed by seed, and its standard error."""

    mean: float
    error: float

    @property
    def counts(self) -> bool:
        return self.mean > ERRORS * self.error

    @classmethod
    def of(cls, fitted: Array, nominal: Array) -> "Gain":
        """Of PSNRs [seeds] of the same seeds."""
        return cls(float(np.mean(fitted - nominal)), float(np.std(fitted - nominal, ddof=1) / sqrt(len(fitted))))


def is_overfitted(on_fit: Gain, on_selection: Gain) -> bool:
    """Whether the selection seeds gain less than those of the fit by more than GAP and chance."""
    gap = on_fit.mean - on_selection.mean
    return gap > GAP and gap > ERRORS * sqrt(on_fit.error**2 + on_selection.error**2)


@dataclass(frozen=True)
class Seeds:
    """The blocks that columns are measured on, and those that damping and anchor are chosen on."""

    fit: tuple[Block, ...]
    selection: tuple[Block, ...]


@dataclass(frozen=True)
class Nominal:
    """PSNRs of the nominal plan on both sets of seeds, [seeds] each."""

    fit: Array
    selection: Array


@dataclass(frozen=True)
class Iterate:
    """The numbers after an iteration, with what they gain over the nominal plan, and how they were chosen."""

    numbers: Recurrence
    on_fit: Gain
    on_selection: Gain
    damping: float
    anchor: float


def step_of(
    found: Sensitivity, energies: Array | None, moved_so_far: Array, damping: float, anchor: float
) -> tuple[Array, Array]:
    """A step in the numbers' sizes, and the columns' energies, which the anchor counts in (None: those found here).

    Solves (H + damping diag H + anchor E) d = g - anchor E (theta - theta_0), with H and g the weighed means of the
    seeds' Gram matrices and slopes.
    """
    weights = 1 / np.maximum(found.error, max(1e-12 * found.error.max(), NOTHING))
    weights /= weights.sum()
    H = np.tensordot(weights, found.gram, 1)
    energies = np.diag(H).copy() if energies is None else energies
    damped = H + np.diag(damping * np.diag(H) + anchor * energies + 1e-12 * np.trace(H))
    slope = weights @ found.slope - anchor * energies * moved_so_far
    return np.asarray(np.linalg.solve(damped, slope), np.float64), energies


def refine(
    sampler: Sampler,
    origin: Recurrence,
    free: Sequence[Number],
    seeds: Seeds,
    nominal: Nominal,
    measure: Callable[[Recurrence, tuple[Block, ...]], Sensitivity],
    iterations: int,
    begin: Recurrence | None = None,
    measured: int = 2,
) -> Iterator[Iterate]:
    """The iterations that gain on the selection seeds; the last is the best. Rows and told times move together.

    Args:
        measure: the columns of the free numbers on some blocks.
        begin: where an interrupted fit goes on; the anchor stays at `origin`.
        measured: blocks that columns are measured on at first; twice as many in each later iteration.
    """
    sizes = np.array([number.size for number in free])
    numbers = origin if begin is None else begin
    energies: Array | None = None
    best = _judged(sampler, numbers, seeds, nominal, 0.0, 0.0).on_selection.mean
    count = measured
    for _ in range(iterations):
        found = measure(numbers, seeds.fit[:count])
        so_far = difference(numbers, origin, free) / sizes
        candidates = []
        for damping, anchor in RESTRAINTS:
            by, energies_now = step_of(found, energies, so_far, damping, anchor)
            candidates.append((damping, anchor, moved(numbers, free, by * sizes)))
        energies = energies_now
        ranked = sorted(
            ((_mean(sampler, each, seeds.selection), damping, anchor, each) for damping, anchor, each in candidates),
            key=lambda known: -known[0],
        )
        is_whole = count >= len(seeds.fit)
        taken = None
        for quality, damping, anchor, each in ranked:
            if quality - float(nominal.selection.mean()) <= best:
                break
            tried = _judged(sampler, each, seeds, nominal, damping, anchor)
            if not is_overfitted(tried.on_fit, tried.on_selection):
                taken = tried
                break
        if taken is None and is_whole:
            return
        if taken is not None:
            gained = taken.on_selection.mean - best
            numbers, best = taken.numbers, taken.on_selection.mean
            yield taken
            if gained < ENOUGH and is_whole:
                return
        count = min(2 * count, len(seeds.fit))


def _mean(sampler: Sampler, numbers: Recurrence, blocks: Sequence[Block]) -> float:
    """Mean PSNR; a step that leaves the numbers is worth nothing."""
    try:
        with np.errstate(all="ignore"):
            found = float(qualities(sampler, plan_of(numbers), blocks).mean())
    except UserError:
        return -np.inf
    return found if np.isfinite(found) else -np.inf


def _judged(
    sampler: Sampler, numbers: Recurrence, seeds: Seeds, nominal: Nominal, damping: float, anchor: float
) -> Iterate:
    plan = plan_of(numbers)
    return Iterate(
        numbers,
        Gain.of(qualities(sampler, plan, seeds.fit), nominal.fit),
        Gain.of(qualities(sampler, plan, seeds.selection), nominal.selection),
        damping,
        anchor,
    )
