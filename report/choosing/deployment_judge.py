"""The references with which deployments are compared: the teacher's samples, which are cached, and the keys under which
measurements are cached."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import max_branches
from fewstep.measure.estimate import Estimate
from fewstep.measure.judged_reference import JudgedReference
from fewstep.measure.judges.judge import Judge, SamplePairs
from fewstep.measure.judges.trial import try_judge
from fewstep.measure.rollouts.conditions_file import digest_records
from fewstep.measure.rollouts.record_sizes import records_of_one_size
from fewstep.measure.rollouts.reference_check import require_usable_reference
from fewstep.measure.rollouts.seeds import OTHER_SEEDS, SeedBatch
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
    the samples, and prompts: the texts that the records encode (`conditions_file.GivenConditions`). judge: the user's
    measure of samples; None to decide by PSNR.
    """

    count: int
    batch: int
    progress: Progress = SILENT
    notes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    judge: Judge | None = None

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

    @property
    def decides_by_distance(self) -> bool:
        """Whether the distance of samples from the teacher's decides, and neither a student's own plan nor a judge."""
        return self.judge is None and self.teacher is not None

    def sample_plan(self, sampler: Sampler, plan: Plan, at_once: int) -> list[Floats]:
        """Return the sample [1, *x_shape] of each seed along a plan. They may differ in size."""
        samples = list[Floats]()
        for part in self.held_out_batches(range(self.count), at_once):
            states = part.at_size(sampler).steps(plan, part.seeds, part.conditions)
            samples += np.split(finite_sample(plan, states), len(part.seeds))  # warns of no range
            self.progress(f"sampling {plan.name}", part.seeds[-1] + 1, self.count)
        return samples

    @cached_property
    def reference_samples(self) -> list[Floats]:
        """The teacher's sample [1, *x_shape] of each seed. They are cached."""
        key = cache_key("teacher", *self._facts)
        if (content := cache.read_intact(KIND, key)) is not None:
            with np.load(BytesIO(content), allow_pickle=False) as stored:
                return [stored[name] for name in stored.files]
        samples, stream = self.sample_plan(self.reference, self.reference_plan, FEW), BytesIO()
        np.savez(stream, *samples)
        cache.store_intact(KIND, key, stream.getvalue())
        return samples

    def try_judge(self) -> None:
        """Let the user's judge score two samples of float32, if there is one, unless it has done so for this bundle.
        Raises UserError if it fails."""
        if self.judge is None:
            return
        key = cache_key("tried judge", self._facts, self.judge.name, self.judge.sha256)
        if read_cached(key, bool) is None:
            try_judge(self.judge, self.reference, self.plan, self.records)
            write_cached(key, True)

    def pair(self, samples: Sequence[Floats]) -> SamplePairs:
        """Return the samples [1, *x_shape] of all seeds with the references and the conditions of these seeds."""
        batches = self.held_out_batches(range(self.count), 1)
        triples = zip(samples, self.reference_samples, batches, strict=True)
        return SamplePairs.join([SamplePairs(ours, exact, batch.conditions) for ours, exact, batch in triples])

    def cache_key(self, body: str, engine: TimedEngine, plan: Plan) -> str:
        """Return the cache key of a deployment."""
        own = (body_facts(self.bundle, body), engine.backend, engine.threads, engine.spinning, plan, self.batch)
        judged_by = () if self.judge is None else ((self.judge.name, self.judge.sha256),)
        return cache_key("deployment", own, *self._facts, *judged_by)

    def plan_key(self, what: str, plan: Plan) -> str:
        """Return the cache key of a property of float32's samples along a plan."""
        return cache_key(what, plan, *self._facts)

    @cached_property
    def _facts(self) -> tuple[object, ...]:
        """Everything that determines the teacher's samples; the key under which they are cached."""
        name = next(key for key, body in self.bundle.manifest.bodies.items() if body == self.reference.body)
        batches = self.held_out_batches(range(self.count), self.count)
        conditions = [digest_records(batch.conditions) for batch in batches]
        return (body_facts(self.bundle, name), self.reference_plan, self.count, conditions)


def find_teacher_plan(judging: DeploymentJudge, expected: Callable[[], Estimate]) -> Plan | None:
    """Return the teacher, which is checked once and cached; None for a distilled denoiser. Announce the expected time
    unless the check is cached."""
    plan, records, name = judging.plan, judging.records, judging.teacher_reference
    seeds, alike = range(min(len(OTHER_SEEDS), judging.count)), records_of_one_size(records)
    first = SeedBatch.from_manifest(judging.bundle.manifest, seeds, alike)
    if judging.teacher is None:
        expected().announce()
        require_usable_reference(judging.reference, plan, first)
        return None
    values = None if records is None else digest_records(records)
    key = cache_key("check", body_facts(judging.bundle, FLOAT), name, plan, judging.count, values)
    teacher = read_cached(key, Teacher)
    if teacher is None:
        expected().announce()
        teacher = judging.find_teacher(judging.count, judging.progress)
        require_usable_reference(judging.reference, teacher.plan, first)
        write_cached(key, teacher)
    if not teacher.check.suffices:
        LOG.warning("%s", teacher.check)
    return teacher.plan
