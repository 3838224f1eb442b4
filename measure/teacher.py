"""The float32 teacher of a judgement or a fit: a plan whose samples represent the exact trajectories from the same
noise.

The teacher is checked: on a few seeds its samples are compared with samples of twice as many steps, which are exact up
to a small error. A distilled denoiser has no teacher, since its few steps do not approximate many steps, for which it
was not trained.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sample_space import judging_of
from fewstep.plans.any_plan import AnyPlan, check_compiled, shaping_of
from fewstep.plans.configs.classes import is_distilled_sampler
from fewstep.plans.configs.student_signs import find_signs
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import respread_weights
from fewstep.plans.names.plan_reference import (
    FileReference,
    SchedulerReference,
    TextReference,
    join_plan_name,
    parse_plan_text,
    split_plan_name,
    with_steps,
)
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Strict
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.scheduler_plans import read_scheduler_config

FIRST_STEPS = 80  # steps of the default plan, before they are doubled
MOST_STEPS = 320  # maximum steps; with more, float32 rounding is as large as the difference
CHECK_SEEDS = 4
TEACHER_MARGIN = 10.0  # dB: a teacher that is this much more exact adds a tenth to the judged plan's error
NO_TEACHER = "was distilled to few steps, so no plan can be its teacher"
MOST_STUDENT_STEPS = 16  # of a plan along which a name may say that a denoiser is a student
STRETCHED = ("ays_sd", "ays_sdxl", "ays_svd", "table")  # grids that interpolate a table of few steps

LOG = logging.getLogger("fewstep")
Sample = Callable[[Plan, SeedBatch], Floats]  # a function that returns float32's samples [seeds, *x_shape] along a plan


class TeacherCheck(Strict, frozen=True):
    """The distances of a teacher and of the judged plan from the exact trajectory, which is represented by samples with
    twice the teacher's steps. Distances are mean PSNRs over `seeds` seeds, in dB; None if no plan has twice the
    steps."""

    teacher: str  # the name of its plan
    exactness: float | None  # PSNR of the teacher's samples
    judged: float | None  # PSNR of the judged plan's samples from the float32 body
    seeds: int

    @property
    def suffices(self) -> bool:
        """Whether the teacher is closer to the exact result than the judged plan, by at least `TEACHER_MARGIN` dB."""
        if self.exactness is None or self.judged is None:
            return False
        return self.exactness >= self.judged + TEACHER_MARGIN

    def __str__(self) -> str:
        """Return the check as a sentence."""
        if self.exactness is None or self.judged is None:
            return f"The teacher {self.teacher} was not checked: no plan has the same times and twice as many steps."
        distance = f"Compared with twice as many steps, the teacher {self.teacher} has {self.exactness:.1f} dB"
        if self.suffices:
            return f"{distance}, and the judged plan {self.judged:.1f} dB ({self.seeds} seeds)."
        return (
            f"{distance}, less than {TEACHER_MARGIN:g} dB above the judged plan's {self.judged:.1f} dB: "
            f"figures against this teacher include its error. Give --teacher more steps."
        )


@dataclass(frozen=True)
class Teacher:
    """A plan of many steps, and the check that it is close enough to the exact result. `check.suffices` says whether
    comparisons with it can be trusted."""

    plan: Plan
    check: TeacherCheck


def teacher_plan(sampler: Sampler, reference: TextReference | None, judged: AnyPlan) -> Plan:
    """Compile the referenced plan, or the default for None, with the guidance and shaping of the judged plan.

    If the guidance weight changes from evaluation to evaluation, the weights are spread over the teacher's evaluations.
    The default is `dpmpp_2m` in 80 steps over `arctan`, or `ctm` for a network that takes two times. If the schedule
    has fewer timesteps, all are used. A plan of the scheduler has the shaping of its config. Raises UserError for a
    plan that draws noise in its steps, which leads to another sample than the judged plan from the same seed, and for a
    grid that interpolates a table of few steps: many steps on it are as uneven as the table.
    """
    if reference is None:
        timesteps = NoiseSchedule(sampler.bundle.manifest.schedule).timesteps or FIRST_STEPS
        solver = "ctm" if sampler.network().inputs.has_second_time else "dpmpp_2m"
        steps, grid = (FIRST_STEPS, "arctan") if timesteps >= FIRST_STEPS else (timesteps, "trailing")
        reference = parse_plan_text(join_plan_name(solver, steps, grid))
    is_file = isinstance(reference, FileReference)
    shaping = None if is_file or isinstance(reference, SchedulerReference) else shaping_of(judged)
    plan = check_compiled(sampler.plans.compile(reference, judged.guidance, {"shaping": shaping}))
    guidance = respread_weights(judged.guidance, len(judged.steps), len(plan.steps))
    if guidance != judged.guidance and not is_file:
        plan = check_compiled(sampler.plans.compile(reference, guidance, {"shaping": shaping}))
    if plan.is_stochastic:
        what = f"plan {plan.name} cannot be a teacher: it draws noise in its steps, and other plans draw none or other"
        raise UserError(what, "give a teacher that draws none, such as ddim:100, or leave it out")
    grid = split_plan_name(plan.name).grid_function
    if grid in STRETCHED:
        raise UserError(
            f"plan {plan.name} cannot be a teacher: grid {grid} interpolates a table made for few steps",
            "give the teacher another grid, such as dpmpp_2m:80@arctan, or leave it out",
        )
    return plan


def is_distilled(sampler: Sampler, judged: AnyPlan) -> bool:
    """Return whether a denoiser was distilled to few steps: because its spec says so, because it is a consistency
    function, because the solver of `judged`, or the scheduler whose plan it is, is for such denoisers, or because a
    name says so and `judged` has few steps. A network that takes two times does not count as distilled unless its spec
    says so."""
    from fewstep.plans.names.plan_name import parse_plan_name  # imports all solvers; not needed to only run plans
    from fewstep.plans.publication import facts_of

    manifest = sampler.bundle.manifest
    if manifest.distilled or sampler.network().inputs.has_second_time:
        return manifest.distilled
    if manifest.prediction == "consistency":
        return True
    config: dict[str, Any] = {}
    with suppress(UserError):  # no scheduler, or one that cannot be read, which its plans report
        config = read_scheduler_config(sampler.bundle)
    if split_plan_name(judged.name).is_of_scheduler and is_distilled_sampler(config):
        return True
    with suppress(UserError):  # a plan from a file, from a fit, or of an unknown solver
        if facts_of(parse_plan_name(judged.name).solver).distilled:
            return True
    names = [manifest.provenance.source, *(adapter.file for adapter in manifest.provenance.adapters)]
    return len(judged.steps) <= MOST_STUDENT_STEPS and find_signs(names, config) is not None


def select_teacher_plan(sampler: Sampler, reference: TextReference | None, judged: AnyPlan) -> Plan | None:
    """Return `teacher_plan`. None for distilled denoisers, unless the user names a teacher, and for token denoisers,
    where more steps draw other tokens.

    Raises UserError for a token plan that may skip evaluations, along which bodies cannot be compared.
    """
    if not judging_of(judged).has_teacher(judged, reference):
        return None
    if reference is not None or not is_distilled(sampler, judged):
        return teacher_plan(sampler, reference, judged)
    what = "%s %s: bodies are compared with float32 along %s (--teacher PLAN names another reference)"
    LOG.warning(what, sampler.bundle.manifest.name, NO_TEACHER, judged.name)
    return None


def find_teacher(
    sampler: Sampler,
    reference: TextReference | None,
    judged: Plan,
    seeds: Sequence[int] = range(CHECK_SEEDS),
    records: ConditionRecords | None = None,
    progress: Progress = SILENT,
    sample: Sample | None = None,
) -> Teacher:
    """Find the teacher of `judged`, and check it on held-out `seeds`. If `sample` is given, it makes the samples.

    reference: the teacher's plan; a plan file is used unchanged. None is the default, whose steps are doubled until it
        suffices, up to `MOST_STEPS`.
    records: user-supplied conditions.
    """
    batches = [*SeedBatch.split_by_size(sampler.bundle.manifest, seeds, records, len(seeds))]
    draw = sample or (lambda plan, batch: batch.at_size(sampler).sample(plan, batch.seeds, batch.conditions))

    def samples_of(plan: Plan) -> list[Floats]:
        progress(f"checking the teacher: {plan.name}", 0, 1)
        samples = [draw(plan, batch) for batch in batches]
        progress(f"checking the teacher: {plan.name}", 1, 1)
        return samples

    plan = teacher_plan(sampler, reference, judged)
    finer = None if isinstance(reference, FileReference) else _double_steps(sampler, plan, judged)
    if finer is not None:
        judged_samples, coarse = samples_of(judged), samples_of(plan)
    while finer is not None:
        fine = samples_of(finer)
        check = TeacherCheck(plan.name, _mean_psnr(coarse, fine), _mean_psnr(judged_samples, fine), len(seeds))
        if check.suffices or reference is not None or len(plan.steps) >= MOST_STEPS:
            return Teacher(plan, check)
        plan, coarse, finer = finer, fine, _double_steps(sampler, finer, judged)
    return Teacher(plan, TeacherCheck(plan.name, None, None, 0))


def _double_steps(sampler: Sampler, plan: Plan, judged: Plan) -> Plan | None:
    """Return the plan with twice as many steps; None if its times are listed explicitly, or it has all timesteps."""
    name = split_plan_name(plan.name)
    if not name.has_step_count:
        return None
    try:
        return teacher_plan(sampler, parse_plan_text(with_steps(plan.name, 2 * int(name.steps))), judged)
    except UserError:
        return None


def _mean_psnr(samples: Sequence[Floats], references: Sequence[Floats]) -> float:
    """Return the mean over the samples of all batches."""
    return float(np.concatenate([psnr(*pair) for pair in zip(samples, references, strict=True)]).mean())
