"""The options for comparing bodies with float32, which `measure` and `report` share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fewstep.measure.cost import needs_row_by_row
from fewstep.measure.judged_reference import ReferenceOptions
from fewstep.measure.judged_run import Contender
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.judges.options import JudgeOptions
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plans
from fewstep.measure.rollouts.prompts import records_of_body
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import PAIRED
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.race import Turns
from fewstep.measure.teacher import select_teacher_plan
from fewstep.measure.workers.setup import SamplingOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import TextReference
from fewstep.runtime.bundle.networks import edges_of
from fewstep.runtime.bundle.reading import Bundle

SEEDS = 256  # by default


@dataclass(frozen=True, kw_only=True)
class JudgementOptions(ReferenceOptions, SamplingOptions, JudgeOptions):
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
    seeds: int = SEEDS
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
        """How bodies are timed: batch sizes, rounds, seconds per turn, and threads."""
        return Turns(self.batches, self.rounds, self.turn_seconds, self.threads)

    def open_judged_task(self, bundle: Bundle, names: Sequence[str]) -> JudgedTask:
        """Prepare the comparison of these int8 bodies with float32 on all seeds. Raises UserError if it is
        impossible."""
        reference, bodies = open_body(bundle, FLOAT, self.threads), {name: bundle.body(name) for name in names}
        plans = select_plans(reference.plans, bodies, self.plan, self.guidance)
        plan = plans[names[0]]
        given = self.held_out_conditions(bundle)
        as_run = ((name, records_of_body(bundle, name, given.records, given.prompts)) for name in names)
        own = {name: records for name, records in as_run if records is not None and records is not given.records}
        by_rows = needs_row_by_row(bundle, names, plan, self.workers)
        return JudgedTask(
            bundle=bundle,
            setup=self.setup,
            teacher_reference=self.teacher,
            reference=with_row_by_row_body(reference) if by_rows else reference,
            by_rows=by_rows,
            bodies=bodies,
            plan=plan,
            plans=plans,
            contenders=tuple(Contender(name, edges_of(bundle.manifest, name), self.seeds) for name in names),
            count=self.seeds,
            teacher_sample_count=self.teacher_sample_count,
            teacher=select_teacher_plan(reference, self.teacher, plan),
            records=given.records,
            own=own,
            random=given.random,
            fixed_conditions=given.fixed,
            judge=self.open_judge(bundle),
        )
