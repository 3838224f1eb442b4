"""Rollouts of plans in this process or in worker processes, with bitwise identical results.

A rollout samples one block of seeds along a plan. Results are in the order of the items.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block
from fewstep.fitting.finite_differences import measure_jacobian
from fewstep.fitting.free_numbers import Number
from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.recurrence import Recurrence
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.sampling import Bodies, Question, Sampling
from fewstep.measure.workers.job import Workers
from fewstep.measure.workers.pinned_bundle import PinnedBundle
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.sampling.execute import Array
from fewstep.runtime.sampling.finite_checks import NotFinite
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler

CPU = "onnxruntime"  # the teacher's backend
BODY, TEACHER = "body", "teacher"  # names of the samplers: of the fitted body, and of the float32 body

Result = Array | NotFinite  # samples, or the error that replaces them: it must not end the other rollouts


@dataclass(frozen=True)
class RolloutItem:
    """A request to sample one block of seeds along a plan. `by` names the network that samples: BODY for the one that
    is fitted, TEACHER for the float32 network of the teacher."""

    plan: Plan
    block: Block
    by: str = BODY

    def answer(self, bodies: Bodies) -> Result:
        try:
            return self.block.sample(bodies(self.by), self.plan)
        except NotFinite as error:
            return error


@dataclass(frozen=True)
class JacobianItem:
    """A request for the Jacobian of a block's samples with respect to the coefficients and times in `free`."""

    numbers: Recurrence
    free: tuple[Number, ...]
    block: Block

    def answer(self, bodies: Bodies) -> Jacobian:
        return measure_jacobian(bodies(BODY), self.numbers, self.free, self.block)


@dataclass(frozen=True)
class RolloutJob:
    """The job of worker processes that sample and measure Jacobians for a fit.

    bundle: the bundle of the float32 body to which a plan is fitted.
    backend: the name of the engine, as in the options.
    """

    bundle: PinnedBundle
    backend: str

    def open(self, threads: int) -> Callable[[Question[Any]], Any]:
        sampler, reference = open_samplers(self.bundle.check_folder(), self.backend, threads)
        return lambda item: item.answer({BODY: sampler, TEACHER: reference}.__getitem__)


def open_samplers(path: Path, backend: str, threads: int) -> tuple[Sampler, Sampler]:
    """Return the samplers of the fitted plan and of the teacher. They are the same object if both use one engine."""
    sampler = load(path, backend=create_backend(backend, threads))
    return sampler, sampler if backend == CPU else load(path, backend=create_backend(CPU, threads))


@dataclass(frozen=True)
class FitSampler:
    """Samples along plans for a fit, in this process or in worker processes.

    sampler: the sampler of the body to which the plan is fitted.
    reference: the sampler of the float32 body, which runs the teacher.
    job, workers: if given, the workers run this job, and the samplers of this process are not called.
    """

    sampler: Sampler
    reference: Sampler
    job: RolloutJob | None = None
    workers: Workers | None = None

    def sample_blocks(self, plan: Plan, blocks: Sequence[Block], by: str = BODY) -> Iterator[Array]:
        """Yield samples [seeds, *x_shape] of each block. Raises NotFinite if an output of the network is not finite."""
        yield from map(_array_or_raise, self._sampling.answers(_make_items(plan, blocks, by)))

    def measure_psnr(self, plan: Plan, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """Return the PSNR of each sample against its target, in dB: [seeds]."""
        pairs = zip(self.sample_blocks(plan, blocks), blocks, strict=True)
        return np.concatenate([psnr(samples, block.required_target) for samples, block in pairs])

    def try_plans(self, plans: Sequence[Plan], blocks: Sequence[Block]) -> list[NDArray[np.float64] | None]:
        """Return the PSNRs [seeds] of several plans, with None for a plan whose samples are not finite."""
        with np.errstate(all="ignore"):
            results = self._sampling.answers(item for plan in plans for item in _make_items(plan, blocks))
            return [_finite_psnr([(next(results), block) for block in blocks]) for _ in plans]

    def measure_columns(
        self, numbers: Recurrence, free: Sequence[Number], blocks: Sequence[Block]
    ) -> Iterator[Jacobian]:
        """Yield the Jacobian of each block's samples with respect to the coefficients and times in `free`."""
        return self._sampling.answers(JacobianItem(numbers, tuple(free), block) for block in blocks)

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.job, {BODY: self.sampler, TEACHER: self.reference}, self.workers)


def _make_items(plan: Plan, blocks: Sequence[Block], by: str = BODY) -> Iterator[RolloutItem]:
    """Yield a request to sample each block along a plan. The blocks' targets are left out, because worker processes do
    not need them."""
    return (RolloutItem(plan, replace(block, target=None), by) for block in blocks)


def _array_or_raise(result: Result) -> Array:
    if isinstance(result, NotFinite):
        raise result
    return result


def _finite_psnr(pairs: Sequence[tuple[Result, Block]]) -> NDArray[np.float64] | None:
    """Return the PSNRs [seeds] of the samples of some blocks, or None if a sample is not finite."""
    if not all(isinstance(result, np.ndarray) for result, _ in pairs):
        return None
    qualities = np.concatenate([psnr(_array_or_raise(result), block.required_target) for result, block in pairs])
    return qualities if np.isfinite(qualities).all() else None
