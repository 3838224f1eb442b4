"""Requests to the bodies of a bundle (called questions), such as for the samples of a batch, which any worker process
can answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.workers.job import Job, Workers, map_in_order
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import Array
from fewstep.runtime.sampling.sampler import Sampler

FLOAT = "float32"  # the body with which all others are compared
FEW = 2  # seeds at once along a plan of many steps

Answer = TypeVar("Answer")
Made = TypeVar("Made", covariant=True)
Bodies = Callable[[str], Sampler]  # a function that returns an opened body by its name


class Question(Protocol[Made]):
    """A picklable request for a result. The result depends only on the bodies of a bundle, so any process that can open
    them can compute it."""

    def answer(self, bodies: Bodies) -> Made: ...


@dataclass(frozen=True)
class SampledBatch:
    """A request for samples [seeds, *x_shape] of a body along a plan."""

    body: str
    plan: AnyPlan
    batch: SeedBatch

    def answer(self, bodies: Bodies) -> Array:
        sampler = self.batch.at_size(bodies(self.body))
        return sampler.sample(self.plan, self.batch.seeds, self.batch.of_body(self.body).conditions)


@dataclass(frozen=True)
class Sampling:
    """The source of samples: workers that run a job, or, without workers, samplers of this process, by body."""

    job: Job[Any, Any] | None
    samplers: Mapping[str, Sampler]
    workers: Workers | None = None

    def answers(self, questions: Iterable[Question[Answer]]) -> Iterator[Answer]:
        """Yield the answer to each question, in the order of the questions. They are computed by worker processes, if
        there are any."""
        if self.workers is not None and self.job is not None:
            yield from map_in_order(self.job, questions, self.workers)
            return
        for question in questions:
            yield question.answer(self.samplers.__getitem__)

    def sample_in_parts(self, plan: Plan, batch: SeedBatch) -> Array:
        """Return float32's samples along a plan of many steps, [seeds, *x_shape]."""
        return np.concatenate(list(self.answers(SampledBatch(FLOAT, plan, part) for part in batch.split(FEW))))
