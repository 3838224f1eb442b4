"""Who rolls plans out: the samplers of this process, or workers, which find the same bits.

A rollout is a function of a body, a plan and a block. Results come in the order in which they are asked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, sample, sample_by
from fewstep.fitting.free import Number
from fewstep.fitting.kept import Kept, rollout_key, with_first_kept
from fewstep.fitting.recurrence import Recurrence
from fewstep.fitting.sensitivity import Sensitivity
from fewstep.fitting.tangents import sensitivity
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.backends.named import named
from fewstep.runtime.execute import Array
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler
from fewstep.workers.in_order import Workers, in_order
from fewstep.workers.sent_bundle import SentBundle

CPU = "onnxruntime"  # of the teacher


@dataclass(frozen=True)
class Asked:
    """Samples of a block along a plan, by the body of the fit or by the teacher's."""

    plan: Plan
    block: Block
    of_teacher: bool = False


@dataclass(frozen=True)
class Measured:
    """The columns of some numbers on a block."""

    numbers: Recurrence
    free: tuple[Number, ...]
    block: Block


Item = Asked | Measured
Result = Array | Sensitivity | UserError


@dataclass(frozen=True)
class RolloutJob:
    """The body of a bundle that a plan is fitted to, and its engine, as options name them."""

    bundle: SentBundle
    precision: str
    backend: str

    def open(self, threads: int) -> Callable[[Item], Result]:
        samplers, firsts = open_samplers(self.bundle.found(), self.precision, self.backend, threads), Kept()
        return lambda item: _rolled(*samplers, firsts, item)


def open_samplers(path: Path, precision: str, backend: str, threads: int) -> tuple[Sampler, Sampler]:
    """The samplers of the body that is fitted to, and of the teacher; one where they are the same."""
    sampler = load(path, precision, backend=named(backend, threads))
    is_teacher = sampler.body == sampler.bundle.manifest.bodies["float32"] and backend == CPU
    return sampler, sampler if is_teacher else load(path, backend=named(CPU, threads))


@dataclass(frozen=True)
class Rollouts:
    """`sampler` runs the body that is fitted to, `reference` the float32 body, for the teacher. Workers do the job in
    their place, if there are some. `kept` has samples of the body, `firsts` first evaluations of this process."""

    sampler: Sampler
    reference: Sampler
    job: RolloutJob | None = None
    workers: Workers | None = None
    kept: Kept = field(default_factory=Kept)
    firsts: Kept = field(default_factory=Kept)

    def samples(self, plan: Plan, blocks: Sequence[Block], of_teacher: bool = False) -> Iterator[Array]:
        """Samples [seeds, *x_shape] of each block; UserError if they leave the numbers."""
        for found in self._each(Asked(plan, replace(block, target=None), of_teacher) for block in blocks):
            if isinstance(found, UserError):
                raise found
            assert isinstance(found, np.ndarray)
            yield found

    def qualities(self, plan: Plan, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """PSNR of each sample against its target, in dB: [seeds]."""
        pairs = zip(self.samples(plan, blocks), blocks, strict=True)
        return np.concatenate([psnr(made, block.taught) for made, block in pairs])

    def tried(self, plans: Sequence[Plan], blocks: Sequence[Block]) -> list[NDArray[np.float64] | None]:
        """The qualities of several plans; None for one whose samples are not finite."""
        with np.errstate(all="ignore"):
            found = self._each(Asked(plan, replace(block, target=None)) for plan in plans for block in blocks)
            return [_finite([(next(found), block) for block in blocks]) for _ in plans]

    def columns(self, numbers: Recurrence, free: Sequence[Number], blocks: Sequence[Block]) -> Iterator[Sensitivity]:
        """The columns of all free numbers on each block."""
        for found in self._each(Measured(numbers, tuple(free), block) for block in blocks):
            if isinstance(found, UserError):
                raise found
            assert isinstance(found, Sensitivity)
            yield found

    def _each(self, items: Iterable[Item]) -> Iterator[Result]:
        """What items ask for, in their order. What is kept is not made again."""
        keyed = [(item, _key(item)) for item in items]
        known = [None if key is None else self.kept.get(key) for _, key in keyed]
        made = self._made([item for (item, _), had in zip(keyed, known, strict=True) if had is None])
        for (_, key), had in zip(keyed, known, strict=True):
            found = next(made) if had is None else had[0]
            if key is not None and isinstance(found, np.ndarray):
                self.kept.put(key, [found])
            yield found

    def _made(self, items: Sequence[Item]) -> Iterator[Result]:
        if self.workers is not None and self.job is not None:
            return in_order(self.job, items, self.workers)
        return (_rolled(self.sampler, self.reference, self.firsts, item) for item in items)


def _key(item: Item) -> bytes | None:
    """None for what no fit asks for twice."""
    return rollout_key(item.plan, item.block) if isinstance(item, Asked) and not item.of_teacher else None


def _rolled(sampler: Sampler, reference: Sampler, firsts: Kept, item: Item) -> Result:
    """What an item asks for. A plan that leaves the numbers is a result: it must not end what others asked for."""
    try:
        if isinstance(item, Measured):
            return sensitivity(sampler, item.numbers, item.free, item.block, firsts)
        if item.of_teacher:
            return sample(reference, item.plan, item.block)
        network = with_first_kept(item.block.network(sampler, item.plan), item.block, firsts)
        return sample_by(network, item.plan, item.block)
    except UserError as error:
        return error


def _finite(pairs: Sequence[tuple[Result, Block]]) -> NDArray[np.float64] | None:
    qualities = []
    for made, block in pairs:
        if not isinstance(made, np.ndarray):
            return None
        qualities.append(psnr(made, block.taught))
    found = np.concatenate(qualities)
    return found if np.isfinite(found).all() else None
