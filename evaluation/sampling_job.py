"""Sampling as a job: batches of samples, of any body along any of a few plans, by any worker."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from platform import node
from threading import Lock
from typing import Any

from numpy.typing import NDArray

import fewstep.evaluation
from fewstep.calibration.bodies import engine_and_version, open_body
from fewstep.calibration.workers.in_order import Workers, in_order
from fewstep.calibration.workers.sent_bundle import SentBundle, sent
from fewstep.machine.code_digest import code_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle, open_bundle
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
    """The bundle whose bodies sample, and the plans that batches choose from. Made by `sampling_job`.

    engines: what computes each body where the job was made, by the body's name. code: a digest of the code there.
    """

    bundle: SentBundle
    plans: tuple[Plan, ...]
    engines: Mapping[str, str]
    code: str

    def open(self, threads: int) -> Callable[[Batch], Array]:
        """UserError where another engine or other code would sample, under the name of the first."""
        bundle, samplers, lock = open_bundle(self.bundle.found()), dict[str, Sampler](), Lock()
        self._check(bundle)

        def sample(batch: Batch) -> Array:
            with lock:
                if batch.body not in samplers:
                    samplers[batch.body] = open_body(bundle, batch.body, threads)
            return samplers[batch.body].sample(self.plans[batch.plan], batch.seeds, batch.conditions)

        return sample

    def _check(self, bundle: Bundle) -> None:
        if (there := _own_code()) != self.code:
            raise UserError(
                f"worker {node()} evaluates by other code of fewstep: {self.code} here, {there} there",
                "use workers with the fewstep of this machine",
            )
        for name, engine in self.engines.items():
            if (there := engine_and_version(bundle.body(name))) != engine:
                raise UserError(
                    f"worker {node()} has another engine for {name}: {engine} here, {there} there",
                    "install the same version of the engine on this machine and on all workers",
                )


def sampling_job(bundle: Bundle, bodies: Iterable[str], plans: tuple[Plan, ...]) -> SamplingJob:
    """The job of sampling with bodies, and with float32, as this machine does."""
    names = tuple(bodies)
    engines = {name: engine_and_version(bundle.body(name)) for name in names}
    return SamplingJob(sent(bundle.path, names), plans, engines, _own_code())


def _own_code() -> str:
    """Of this package: the kind of a worker has the code below it."""
    return code_of((fewstep.evaluation,)).hex()[:12]


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
