"""The options of a judgement, and its reference: float32 along a plan and its teacher."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.prompts import ConditionOptions
from fewstep.measure.rollouts.seeds import PAIRED, SeedBatch
from fewstep.measure.speed.race import Turns
from fewstep.measure.teacher import CHECK_SEEDS, Sample, Teacher, find_teacher
from fewstep.measure.workers.setup import SamplingOptions
from fewstep.plans.errors import UserError
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
class JudgementOptions(ReferenceOptions, SamplingOptions):
    """The plans and the seeds on which bodies are judged, and the turns in which they are timed.

    plan: SOLVER:STEPS, fitted:STEPS, or the path of a plan's JSON. Default: the plan along which the int8 body was
        calibrated.
    seeds: Number of held-out seeds, from 0 on, that are compared sample by sample.
    teacher_seeds: Number of seeds that the teacher samples. Default: 32, or 10 for a report, or all seeds if there are
        fewer.
    batches: Samples in one timed call of the body; a guided plan doubles its rows.
    rounds: Turns that each contender takes.
    turn_seconds: Length of a turn in seconds.
    """

    plan: TextReference | None = None
    seeds: int = 256
    teacher_seeds: int | None = field(default=None, metadata={"expert": True})
    batches: tuple[int, ...] = (1, 8)
    rounds: int = field(default=7, metadata={"expert": True})
    turn_seconds: float = field(default=0.5, metadata={"expert": True})
    MOST_TAUGHT = 32  # seeds that the teacher samples by default

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seeds <= len(PAIRED):
            raise UserError(f"--seeds is {self.seeds}", f"give 1 to {len(PAIRED)}, the number of held-out seeds")
        if not 0 < self.teacher_sample_count <= self.seeds:
            raise UserError(f"--teacher-seeds is {self.teacher_seeds}", f"give 1 to {self.seeds}, as --seeds")
        self.turns()

    @property
    def teacher_sample_count(self) -> int:
        """The number of seeds that the teacher samples."""
        return min(self.MOST_TAUGHT, self.seeds) if self.teacher_seeds is None else self.teacher_seeds

    def turns(self) -> Turns:
        """The turns in which bodies are timed."""
        return Turns(self.batches, self.rounds, self.turn_seconds, self.threads)


@dataclass(frozen=True, kw_only=True)
class JudgedReference:
    """The samples that bodies are compared with: float32's along a plan, and along its teacher.

    teacher: the first plan to try as teacher; None for distilled denoisers and tokens. teacher_reference: the teacher
        that the user named, or None. records: user-supplied conditions, or None.
    """

    reference: Sampler
    plan: Plan
    teacher: Plan | None
    teacher_reference: TextReference | None
    records: ConditionRecords | None

    @property
    def bundle(self) -> Bundle:
        return self.reference.bundle

    def held_out_batch(self, seeds: Sequence[int]) -> SeedBatch:
        """Return a batch of held-out seeds with their conditions."""
        return SeedBatch.from_manifest(self.bundle.manifest, seeds, self.records)

    def plan_to_time(self) -> Plan:
        """Return the plan to time. It is the teacher if the judged plan has only one step, since a first step also
        allocates memory."""
        return self.plan if len(self.plan.steps) > 1 else self.teacher or self.plan

    def find_teacher(self, taught: int, progress: Progress, sample: Sample | None = None) -> Teacher:
        """Find the teacher, and check it on the first of its seeds. `sample` is as in `teacher.find_teacher`."""
        seeds = PAIRED[: min(CHECK_SEEDS, taught)]
        return find_teacher(self.reference, self.teacher_reference, self.plan, seeds, self.records, progress, sample)
