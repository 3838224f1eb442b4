"""The reference of bodies that are judged: float32 along a plan and its teacher, with the options that name it."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.measure.rollouts.conditions_file import ConditionOptions, ConditionRecords
from fewstep.measure.rollouts.seeds import PAIRED, SeedBatch
from fewstep.measure.teacher import CHECK_SEEDS, Sample, Teacher, find_teacher
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(ConditionOptions):
    """The samples that bodies are compared with.

    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient; with a
        plus for several, as 2+pag:3. Default: the guidance of the calibrated plan.
    teacher: Plan of the float32 teacher. Default: dpmpp_2m:80@arctan, doubled until it is exact enough. A distilled
        denoiser has none; choose judges it by its calibrated plan.
    """

    guidance: float | Guidance | None = None
    teacher: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedReference:
    """The samples that bodies are compared with: float32's along a plan, and along its teacher.

    teacher: the plan to begin with; None: a distilled denoiser, or tokens. teacher_name: of the one that was asked for.
    records: conditions of one's own.
    """

    reference: Sampler
    plan: Plan
    teacher: Plan | None
    teacher_name: str | None
    records: ConditionRecords | None

    @property
    def bundle(self) -> Bundle:
        return self.reference.bundle

    def held_out_batch(self, seeds: Sequence[int]) -> SeedBatch:
        """Held-out seeds."""
        return SeedBatch.from_manifest(self.bundle.manifest, seeds, self.records)

    def plan_to_time(self) -> Plan:
        """The plan, or its teacher for the plan of one step, whose first allocates; that plan where none has more."""
        return self.plan if len(self.plan.steps) > 1 else self.teacher or self.plan

    def find_teacher(self, taught: int, progress: Progress, sample: Sample | None = None) -> Teacher:
        """The teacher, checked on the first of the seeds that it samples. `sample` as in `teacher.find_teacher`."""
        seeds = PAIRED[: min(CHECK_SEEDS, taught)]
        return find_teacher(self.reference, self.teacher_name, self.plan, seeds, self.records, progress, sample)
