"""Sampling as a job: batches of samples, of any body along any of a few plans, by any worker."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from fewstep.calibration.bodies import open_body
from fewstep.calibration.workers.in_order import Workers, in_order
from fewstep.calibration.workers.sent_bundle import SentBundle
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.execute import Array
from fewstep.runtime.sampler import Sampler


@dataclass(frozen=True)
class Batch:
    """Samples that are asked for: the body, the plan, and the value of each condition for each seed."""

    body: str
    plan: int
    seeds: range
    conditions: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class SamplingJob:
    """The bundle whose bodies sample, and the plans that batches choose from."""

    bundle: SentBundle
    plans: tuple[Plan, ...]

    def open(self, threads: int) -> Callable[[Batch], Array]:
        bundle, samplers, lock = open_bundle(self.bundle.found()), dict[str, Sampler](), Lock()

        def sample(batch: Batch) -> Array:
            with lock:
                if batch.body not in samplers:
                    samplers[batch.body] = open_body(bundle, batch.body, threads)
            return samplers[batch.body].sample(self.plans[batch.plan], batch.seeds, batch.conditions)

        return sample


@dataclass(frozen=True)
class Sampling:
    """Who samples: workers that do a job, or, without workers, the samplers of this process, by body."""

    job: SamplingJob
    samplers: Mapping[str, Sampler]
    workers: Workers | None = None

    def samples(self, batches: Iterable[Batch]) -> Iterator[Array]:
        """Samples [seeds, *x_shape] of each batch, in order."""
        if self.workers is not None:
            yield from in_order(self.job, batches, self.workers)
            return
        for batch in batches:
            yield self.samplers[batch.body].sample(self.job.plans[batch.plan], batch.seeds, batch.conditions)
