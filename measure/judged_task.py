"""The inputs of a comparison with float32, shared by `measure` and `report`: float32, int8 bodies, and their plans."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from fewstep.graph.resource_needs import Needs
from fewstep.measure.cost import BATCH, sampling_needs
from fewstep.measure.judged_reference import JudgedReference
from fewstep.measure.judged_run import Contender
from fewstep.measure.judges.judge import Judge, SamplePairs, Values
from fewstep.measure.open_body import SamplingJob, open_body
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.measure.sample_space import judging_of
from fewstep.measure.sampling import FLOAT, Sampling
from fewstep.measure.teacher import CHECK_SEEDS
from fewstep.measure.workers.job import Workers
from fewstep.measure.workers.pinned_bundle import pin_bundle
from fewstep.measure.workers.setup import WorkerSetup
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.figures import JudgeScore
from fewstep.runtime.bundle.manifest import Body

if TYPE_CHECKING:
    from fewstep.measure.distances.data import Data
    from fewstep.measure.distances.features import Extractor


@dataclass(frozen=True, kw_only=True)
class JudgedTask(JudgedReference):
    """The inputs of a comparison of bodies with float32, all checked before the first sample.

    Attributes:
        setup: the worker processes that sample.
        by_rows: whether float32 and all bodies run one row at a time.
        bodies: the bodies to compare, by name. `plan` is the plan of the first.
        plans: the plan of each body, by name. They differ only if each body has its own fitted plan.
        contenders: the bodies, each with its number of seeds, out of `count`. The teacher samples
            `teacher_sample_count` of them.
        random: names of conditions with random values (`conditions_file.GivenConditions`).
        fixed_conditions: names of those that have one value in all samples.
        featured: number of samples of each set whose features `extractor` extracts. They are also compared with `data`.
        resamples: number of bootstrap resamples for each interval.
        has_samples: whether samples are kept, for a report page.
        judge: the user's measure of samples, which decides instead of PSNR; None without one.
    """

    setup: WorkerSetup
    by_rows: bool
    bodies: Mapping[str, Body]
    plans: Mapping[str, Plan]
    contenders: tuple[Contender, ...]
    count: int
    teacher_sample_count: int
    random: tuple[str, ...] = ()
    fixed_conditions: tuple[str, ...] = ()
    featured: int = 0
    resamples: int = 0
    extractor: "Extractor | None" = None
    data: "Data | None" = None
    has_samples: bool = False
    judge: Judge | None = None

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the comparison, counted for one sample at a time: of all bodies and of float32,
        of the teacher and its check (assuming that the first teacher suffices), and of the further seeds for
        features."""
        steps, bodies = len(self.plan.steps), len(self.contenders)
        apart = self.featured if self.extractor else 0
        further = max(0, apart - self.count) * (1 + bodies)  # seeds that are sampled only for their features
        long = 0 if self.teacher is None else len(self.teacher.steps)
        has_conditions = bool(self.bundle.manifest.conditions)
        judged = judging_of(self.plan).count_runs(self.count, self.contenders, has_conditions)
        check = min(CHECK_SEEDS, self.teacher_sample_count) * (steps + 3 * long) * (long > 0)
        return (judged + further + apart) * steps + self.teacher_sample_count * long + check

    def needs(self, *written: int) -> Needs:
        """Estimate memory, and disk space for files with `written` bytes."""
        needs = sampling_needs(
            self.bundle, self.bodies, self.plan, BATCH, written, self.setup.count, by_rows=self.by_rows
        )
        return replace(needs, memory=needs.memory + self._kept_bytes)

    @property
    def keeps_samples(self) -> bool:
        """Whether samples are kept in memory: for a page, or for the user's judge."""
        return self.has_samples or self.judge is not None

    @property
    def _kept_bytes(self) -> int:
        """The bytes of the samples that are kept: of float32 and of each body, with their references. They are there
        twice while batches are joined."""
        if not self.keeps_samples:
            return 0
        manifest, seeds = self.bundle.manifest, self.count + sum(contender.seeds for contender in self.contenders)
        return 2 * 2 * seeds * prod(manifest.x_shape) * np.dtype(manifest.space.dtype).itemsize

    def score(self, samples: Values, reference: Values) -> JudgeScore | None:
        """Return the score of samples [N, *x_shape] of the first N seeds by the user's judge; None without one."""
        if self.judge is None:
            return None
        batches = [*self.held_out_batches(range(len(samples)), BATCH)]
        names = batches[0].conditions
        conditions = {name: join_rows([batch.conditions[name] for batch in batches]) for name in names}
        return self.judge.judge(SamplePairs(samples, reference, conditions))

    def open_sampling(self, workers: Workers | None) -> Sampling:
        """Open the samplers of all bodies. With workers, the worker processes open them, and this process opens only
        float32."""
        held = () if workers else self.bodies
        here = {name: open_body(self.bundle, name, self.setup.threads, self.by_rows) for name in held}
        job = SamplingJob(pin_bundle(self.bundle.path), self.by_rows)
        return Sampling(job, {FLOAT: self.reference, **here}, workers)
