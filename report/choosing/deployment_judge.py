"""The references with which deployments are compared: the teacher's samples, which are cached, and the keys under which
measurements are cached."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import max_branches
from fewstep.measure.estimate import Estimate
from fewstep.measure.judged_reference import JudgedReference
from fewstep.measure.rollouts.conditions_file import digest_records
from fewstep.measure.sampling import FEW, FLOAT
from fewstep.measure.teacher import Teacher
from fewstep.plans.plan import Plan
from fewstep.report.choosing.engines import TimedEngine, body_facts
from fewstep.report.choosing.measurement_cache import KIND, cache_key, read_cached, write_cached
from fewstep.runtime.machine import cache
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.finite_checks import finite_sample
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class DeploymentJudge(JudgedReference):
    """Samples the references with which deployments are compared. All plans use the guidance and the shaping (such as
    clipping of x0) of the calibrated plan.

    count: the number of held-out seeds. batch: the number of samples per call. notes: sentences on the conditions of
    the samples (`conditions_file.GivenConditions`).
    """

    count: int
    batch: int
    progress: Progress = SILENT
    notes: tuple[str, ...] = ()

    @property
    def fewest_rows(self) -> int:
        """The number of rows of x in the smallest call of the network (steps may have different branches)."""
        return self.batch * min(len(step.branches) for step in self.plan.steps)

    @property
    def most_rows(self) -> int:
        """The number of rows of x in the largest call of the network."""
        return self.batch * max_branches(self.plan)

    @property
    def reference_plan(self) -> Plan:
        """The plan of the float32 reference samples: the teacher, or the calibrated plan without a teacher."""
        return self.teacher or self.plan

    def sample_plan(self, sampler: Sampler, plan: Plan, at_once: int) -> Floats:
        """Return the samples [seeds, *x_shape] of a plan."""
        parts = []
        for part in self.held_out_batch(range(self.count)).split(at_once):
            parts.append(finite_sample(plan, sampler.steps(plan, part.seeds, part.conditions)))  # warns of no range
            self.progress(f"sampling {plan.name}", part.seeds[-1] + 1, self.count)
        return np.concatenate(parts)

    @cached_property
    def reference_samples(self) -> Floats:
        """The teacher's samples [seeds, *x_shape], which are cached."""
        key = cache_key("teacher", *self._facts)
        if (content := cache.read_intact(KIND, key)) is not None:
            samples: Floats = np.load(BytesIO(content), allow_pickle=False)
            return samples
        samples, stream = self.sample_plan(self.reference, self.reference_plan, FEW), BytesIO()
        np.save(stream, samples)
        cache.store_intact(KIND, key, stream.getvalue())
        return samples

    def cache_key(self, body: str, engine: TimedEngine, plan: Plan) -> str:
        """Return the cache key of a deployment."""
        own = (body_facts(self.bundle, body), engine.backend, engine.threads, engine.spinning, plan, self.batch)
        return cache_key("deployment", own, *self._facts)

    @cached_property
    def _facts(self) -> tuple[object, ...]:
        """Everything that determines the teacher's samples; the key under which they are cached."""
        name = next(key for key, each in self.bundle.manifest.bodies.items() if each == self.reference.body)
        conditions = self.held_out_batch(range(self.count)).conditions
        return (body_facts(self.bundle, name), self.reference_plan, self.count, digest_records(conditions))


def find_teacher_plan(judging: DeploymentJudge, expected: Callable[[], Estimate]) -> Plan | None:
    """Return the teacher, which is checked once and cached; None for a distilled denoiser. Announce the expected time
    unless the check is cached."""
    plan, records, name = judging.plan, judging.records, judging.teacher_reference
    if judging.teacher is None:
        expected().announce()
        return None
    values = None if records is None else digest_records(records)
    key = cache_key("check", body_facts(judging.bundle, FLOAT), name, plan, judging.count, values)
    teacher = read_cached(key, Teacher)
    if teacher is None:
        expected().announce()
        teacher = judging.find_teacher(judging.count, judging.progress)
        write_cached(key, teacher)
    if not teacher.check.suffices:
        LOG.warning("%s", teacher.check)
    return teacher.plan
