"""Sampling as a job: the bodies of a bundle answer questions, such as the samples of a batch, in any worker."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from platform import node
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import fewstep.evaluation
from fewstep.lowering.bodies import engine_and_version, open_body
from fewstep.machine.code_digest import code_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.rollouts.row_by_row import body_by_rows
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.execute import Array
from fewstep.runtime.sampler import Sampler
from fewstep.workers.in_order import Workers, in_order
from fewstep.workers.sent_bundle import SentBundle, sent

FLOAT = "float32"  # the body that all are compared with
FEW = 2  # seeds at once of a plan of many steps

Answer = TypeVar("Answer")
Made = TypeVar("Made", covariant=True)
Bodies = Callable[[str], Sampler]  # an opened body by its name


class Question(Protocol[Made]):
    """A value that can be pickled. Its answer follows from the bodies alone, so that anyone may give it."""

    def answer(self, bodies: Bodies) -> Made: ...


@dataclass(frozen=True)
class Batch:
    """Samples [seeds, *x_shape] that are asked for: the body, the plan, and the value of each condition for each
    seed."""

    body: str
    plan: Plan
    seeds: Sequence[int]
    conditions: Mapping[str, NDArray[Any]]

    def answer(self, bodies: Bodies) -> Array:
        return bodies(self.body).sample(self.plan, self.seeds, self.conditions)


@dataclass(frozen=True)
class SamplingJob:
    """The bundle whose bodies are asked. Made by `sampling_job`.

    engines: what computes each body where the job was made, by the body's name. code: a digest of the code there.
    by_rows: whether bodies see one row at a time.
    """

    bundle: SentBundle
    engines: Mapping[str, str]
    code: str
    by_rows: bool

    def open(self, threads: int) -> Callable[[Question[Any]], Any]:
        """UserError where another engine or other code would sample, under the name of the first."""
        bundle, samplers, lock = open_bundle(self.bundle.folder()), dict[str, Sampler](), Lock()
        self._check(bundle)

        def opened(name: str) -> Sampler:
            with lock:
                if name not in samplers:
                    samplers[name] = open_judged(bundle, name, threads, self.by_rows)
                return samplers[name]

        return lambda question: question.answer(opened)

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


def open_judged(bundle: Bundle, name: str, threads: int, by_rows: bool) -> Sampler:
    """A body as `open_body` opens it, which may see one row at a time."""
    sampler = open_body(bundle, name, threads)
    return body_by_rows(sampler) if by_rows else sampler


def sampling_job(bundle: Bundle, bodies: Iterable[str], by_rows: bool = False) -> SamplingJob:
    """The job of sampling with bodies, and with float32, as this machine does."""
    names = tuple(bodies)
    engines = {name: engine_and_version(bundle.body(name)) for name in names}
    return SamplingJob(sent(bundle.path, names), engines, _own_code(), by_rows)


def _own_code() -> str:
    """The digest of this package. The kind of a worker has the digest of the code below it."""
    return code_of((fewstep.evaluation,)).hex()[:12]


@dataclass(frozen=True)
class Sampling:
    """Who samples: workers that do a job, or, without workers, the samplers of this process, by body."""

    job: SamplingJob
    samplers: Mapping[str, Sampler]
    workers: Workers | None = None

    def answers(self, questions: Iterable[Question[Answer]]) -> Iterator[Answer]:
        """The answer to each question, in order."""
        if self.workers is not None:
            yield from in_order(self.job, questions, self.workers)
            return
        for question in questions:
            yield question.answer(self.samplers.__getitem__)

    def few_by_few(self, plan: Plan, seeds: Sequence[int], conditions: Mapping[str, NDArray[Any]]) -> Array:
        """float32's samples along a plan of many steps, [seeds, *x_shape]."""
        parts = (slice(start, start + FEW) for start in range(0, len(seeds), FEW))
        asked = (
            Batch(FLOAT, plan, seeds[part], {name: each[part] for name, each in conditions.items()}) for part in parts
        )
        return np.concatenate(list(self.answers(asked)))
