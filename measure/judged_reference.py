"""The options of a judgement, and its reference: float32 along a plan and its teacher."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.prompts import ConditionOptions
from fewstep.measure.rollouts.seeds import PAIRED, SeedBatch, held_out_conditions
from fewstep.measure.teacher import CHECK_SEEDS, Sample, Teacher, find_teacher
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(ConditionOptions):
    """The samples that bodies are compared with.

    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient, or
        several as 2+pag:3; cfg++:WEIGHT for CFG++. Default: the guidance of the calibrated plan.
    teacher: Plan of the float32 teacher. Default: dpmpp_2m:80@arctan, with its steps doubled until it is exact enough.
        A distilled denoiser has no teacher; choose judges it by its calibrated plan.
    """

    guidance: float | Guidance | None = None
    teacher: TextReference | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedReference:
    """The samples with which bodies are compared: those of float32 along a plan, and along its teacher.

    reference: the sampler of float32, opened from `bundle`. teacher: the first plan to try as teacher; None for
        distilled denoisers and tokens. teacher_reference: the teacher that the user named, or None. records:
        user-supplied conditions, or None. own: those of bodies, by name, that encode prompts by a text encoder of their
        own.
    """

    bundle: Bundle
    reference: Sampler
    plan: Plan
    teacher: Plan | None
    teacher_reference: TextReference | None
    records: ConditionRecords | None
    own: Mapping[str, ConditionRecords] = field(default_factory=dict)

    def held_out_batches(self, seeds: Sequence[int], at_most: int) -> Iterator[SeedBatch]:
        """Yield held-out seeds with their conditions, in order, in batches of at most `at_most` samples of one size."""
        manifest = self.bundle.manifest
        for batch in SeedBatch.split_by_size(manifest, seeds, self.records, at_most):
            own = {name: held_out_conditions(manifest, batch.seeds, records) for name, records in self.own.items()}
            yield replace(batch, own=own)

    def find_teacher(self, count: int, progress: Progress, sample: Sample | None = None) -> Teacher:
        """Find the teacher, and check it on the first of its seeds. `sample` is as in `teacher.find_teacher`."""
        seeds = PAIRED[: min(CHECK_SEEDS, count)]
        return find_teacher(self.reference, self.teacher_reference, self.plan, seeds, self.records, progress, sample)
