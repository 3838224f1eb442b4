"""The checks of a fit's teacher, made before the search and again with the fitted plan. They form a gate: if it is
shut, no plan that is fitted to this teacher is stored in the bundle.

The reference of a check is a plan with twice the teacher's steps, which stands for the exact trajectory. A teacher
suffices if it is nearer to this reference than the stored plan that a new one would replace, by at least TEACHER_MARGIN
dB.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fewstep.fitting.task import FitTask
from fewstep.measure.rollouts.reference_check import require_usable_reference
from fewstep.measure.rollouts.seeds import FIT_SEEDS, OTHER_SEEDS, SeedBatch
from fewstep.measure.teacher import CHECK_SEEDS, TEACHER_MARGIN, Teacher, TeacherCheck, find_teacher, teacher_plan
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text, with_steps
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.execute import Array

CHANCE = 1.0  # dB: the difference of two means that chance alone can cause, with the few seeds of a check


@dataclass(frozen=True)
class TeacherGate:
    """The result of the teacher's check, on a few seeds of the fit that the judgement does not use.

    replaced: the name of the plan that a new plan would replace: the previous fitted plan, or else the nominal plan.
    before: the check of the teacher against that plan.
    is_shut: True if the bundle must not keep a plan that is fitted to this teacher.
    fix: the fix to print in that case.
    check_against: a function that checks the teacher against any plan.
    """

    teacher: Plan
    replaced: str
    before: TeacherCheck
    is_shut: bool
    fix: str
    check_against: Callable[[Plan], TeacherCheck]

    @property
    def reason(self) -> str:
        """The reason why the gate is shut."""
        own = f"compared with twice as many steps, the teacher {self.teacher.name} has {self.before.exactness:.1f} dB"
        return f"{own}, less than {TEACHER_MARGIN:g} dB above the {self.before.judged:.1f} dB of {self.replaced}"

    def check_fitted(self, plan: Plan) -> TeacherCheck:
        """Return the check of the teacher against a fitted plan, or the check from before the fit if no plan has twice
        the teacher's steps."""
        return self.before if self.before.exactness is None else self.check_against(plan)

    def is_shut_after(self, after: TeacherCheck) -> bool:
        """True if the gate is shut for a fitted plan. `after` is the teacher's check against that plan.

        It is shut if it was shut before the search, or if the teacher does not suffice and the fitted plan is further
        from the reference than the plan that it would replace.
        """
        return self.is_shut or (_is_insufficient(after) and _is_worse(after, self.before))


def check_teacher(task: FitTask, progress: Progress) -> TeacherGate:
    """Check whether the teacher is good enough to fit a plan to it. If it is not, and the caller named it, the gate
    that is returned is shut: the fit must not begin.

    The default teacher gets more steps until it suffices. The gate stays open if the previous fitted plan was compared
    with the same teacher, since both results then contain the teacher's error.
    """
    nominal, sample, seeds = task.starts.nominal[0], _cache_samples(task), FIT_SEEDS[:CHECK_SEEDS]

    def check(reference: TextReference | None, plan: Plan) -> Teacher:
        return find_teacher(task.rolled.reference, reference, plan, seeds, task.conditions.fit, progress, sample)

    first = check(task.teacher_reference, nominal)
    own = SeedBatch.from_manifest(task.bundle.manifest, FIT_SEEDS[: len(OTHER_SEEDS)], task.conditions.fit)
    require_usable_reference(task.rolled.reference, first.plan, own)
    teacher, replaced, before, previous = first.plan, nominal, first.check, task.previous
    if previous is not None and before.exactness is not None:
        replaced = previous.plan
        before = check(parse_plan_text(teacher.name), replaced).check
    has_same_judge = previous is not None and previous.entry.teacher == teacher.name
    default = teacher_plan(task.rolled.reference, None, nominal).name
    if task.teacher_reference is not None and default != teacher.name:
        fix = f"leave --teacher out, which takes {default} or more steps"
    else:
        fix = f"give --teacher {with_steps(teacher.name, 2 * len(teacher.steps))}"
    is_shut = task.teacher_reference is not None and _is_insufficient(before) and not has_same_judge
    return TeacherGate(
        teacher, replaced.name, before, is_shut, fix, lambda plan: check(parse_plan_text(teacher.name), plan).check
    )


def _cache_samples(task: FitTask) -> Callable[[Plan, SeedBatch], Array]:
    """Return a function that samples for the checks. It samples each batch once for each plan."""
    samples = dict[tuple[bytes, tuple[int, ...]], Array]()

    def sample_once(plan: Plan, batch: SeedBatch) -> Array:
        key = encode(plan), tuple(batch.seeds)
        if key not in samples:
            sampler = batch.at_size(task.rolled.reference)
            samples[key] = sampler.sample(plan, batch.seeds, batch.conditions)
        return samples[key]

    return sample_once


def _is_insufficient(check: TeacherCheck) -> bool:
    """True if the teacher was checked and does not suffice."""
    return check.exactness is not None and not check.suffices


def _is_worse(check: TeacherCheck, before: TeacherCheck) -> bool:
    """True if a plan is further from the reference than the plan of `before`, by more than chance."""
    return check.judged is not None and before.judged is not None and check.judged + CHANCE < before.judged
