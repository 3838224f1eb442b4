"""The float32 teacher of a judgement or a fit: the plan whose end stands for the exact trajectory from the same noise.

It is checked, not believed: on a few seeds its samples are compared with the samples of twice as many steps,
which stand for the exact trajectory but for a small rest. A distilled denoiser has none: its few steps are no
approximation of many, and many are outside its training.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.measure.rollouts.recorded_token_run import check_counts
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import respread_weights
from fewstep.plans.plan import Plan, with_steps
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Strict
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.sampler import Sampler

FIRST_STEPS = 80  # of the default plan, before it is doubled
MOST_STEPS = 320  # beyond them rounding in float32 is as large as the difference
CHECK_SEEDS = 4
TEACHER_MARGIN = 10.0  # dB: a teacher that much nearer to the exact trajectory adds a tenth to the judged plan's error
NO_TEACHER = "was distilled to few steps, so that no plan is its teacher"
STRETCHED = ("ays_sd", "ays_sdxl", "ays_svd", "table")  # grids that interpolate a table of few steps

LOG = logging.getLogger("fewstep")
Sample = Callable[[Plan, SeedBatch], Floats]  # makes float32's samples [seeds, *x_shape] along a plan


class TeacherCheck(Strict, frozen=True):
    """The distances of a teacher and of the judged plan from the exact trajectory, which the samples of a plan with
    twice the teacher's steps stand for. PSNR in dB, the mean over `seeds` seeds; None where there is no such plan."""

    teacher: str  # the name of its plan
    exactness: float | None  # of the teacher's samples
    judged: float | None  # of the judged plan's samples, by the float32 body
    seeds: int

    @property
    def suffices(self) -> bool:
        """True where the teacher is nearer than the judged plan, by `TEACHER_MARGIN`."""
        if self.exactness is None or self.judged is None:
            return False
        return self.exactness >= self.judged + TEACHER_MARGIN

    def __str__(self) -> str:
        """The check in a sentence."""
        if self.exactness is None or self.judged is None:
            return f"The teacher {self.teacher} was not checked: no plan has the same times and twice as many steps."
        distance = f"The teacher {self.teacher} is {self.exactness:.1f} dB from twice as many steps"
        if self.suffices:
            return f"{distance}, the judged plan {self.judged:.1f} dB ({self.seeds} seeds)."
        return (
            f"{distance}, less than {TEACHER_MARGIN:g} dB nearer than the judged plan with {self.judged:.1f} dB: "
            f"figures against it include an error of its own. Give --teacher more steps."
        )


@dataclass(frozen=True)
class Teacher:
    """A plan of many steps, and its check. `check.suffices` says whether figures against it can be trusted."""

    plan: Plan
    check: TeacherCheck


def teacher_plan(sampler: Sampler, name: str | None, judged: AnyPlan) -> Plan:
    """The plan of that name or JSON file, or the default, with the guidance and the shaping of the judged plan.

    Weights by evaluation are each for its share of the teacher's evaluations. The default is `dpmpp_2m` in 80 steps
    over `arctan`, or `ctm` for a network that takes two times. A network of fewer timesteps knows no others, and all
    are taken. Raises UserError for a grid that interpolates a table of few steps: many steps on it are as uneven as
    the table.
    """
    if name is None:
        timesteps = NoiseSchedule(sampler.bundle.manifest.schedule).timesteps or FIRST_STEPS
        solver = "ctm" if sampler.network().inputs.has_second_time else "dpmpp_2m"
        name = f"{solver}:{FIRST_STEPS}@arctan" if timesteps >= FIRST_STEPS else f"{solver}:{timesteps}@trailing"
    shaping = None if _is_file(name) else shaping_of(judged)
    plan = sampler.compile(name, judged.guidance, shaping=shaping)
    guidance = respread_weights(judged.guidance, len(judged.steps), len(plan.steps))
    if guidance != judged.guidance and not _is_file(name):
        plan = sampler.compile(name, guidance, shaping=shaping)
    grid = plan.name.partition("@")[2].partition("(")[0]
    if grid in STRETCHED:
        raise UserError(
            f"the teacher {plan.name} is no teacher: grid {grid} is a table of few steps, and its gaps stay",
            "give the teacher another grid, such as dpmpp_2m:80@arctan, or leave it out",
        )
    return plan


def is_distilled(sampler: Sampler, judged: AnyPlan) -> bool:
    """True where a denoiser was distilled to few steps: its spec says so, it is a consistency function, or the judged
    plan is of a solver for such denoisers. A network of two times follows the trajectory, unless its spec says so."""
    from fewstep.plans.names.plan_name import parse_plan_name  # all solvers: not for who only runs plans
    from fewstep.plans.publication import facts_of

    manifest = sampler.bundle.manifest
    if manifest.distilled or sampler.network().inputs.has_second_time:
        return manifest.distilled
    if manifest.prediction == "consistency":
        return True
    with suppress(UserError):  # a plan of a file, of a fit or of a solver that is not here
        return facts_of(parse_plan_name(judged.name).solver).distilled
    return False


def select_teacher_plan(sampler: Sampler, name: str | None, judged: AnyPlan) -> Plan | None:
    """`teacher_plan`, or None where no run is the exact one: of a distilled denoiser unless a plan is named, and of
    tokens, of which more steps draw others. UserError for a plan of tokens that may leave evaluations out, along which
    no body is judged."""
    if sampler.bundle.manifest.vocabulary is None:
        if name is not None or not is_distilled(sampler, judged):
            return teacher_plan(sampler, name, judged)
        what = "%s %s: bodies are compared with float32 along %s"
        LOG.warning(what, sampler.bundle.manifest.name, NO_TEACHER, judged.name)
        return None
    if name is not None:
        raise UserError(f"--teacher {name} for tokens, which have no exact trajectory", "leave it out")
    check_counts(judged, "judge along a plan of counts, such as maskgit:8 or likeliest:8")
    return None


def find_teacher(
    sampler: Sampler,
    name: str | None,
    judged: Plan,
    seeds: Sequence[int] = range(CHECK_SEEDS),
    records: ConditionRecords | None = None,
    progress: Progress = SILENT,
    sample: Sample | None = None,
) -> Teacher:
    """The teacher of `judged`, checked on held-out `seeds`. `sample` makes the samples instead of `sampler`.

    name: of the teacher's plan, or its file; such a plan stays as it is. None: the default, whose steps are doubled
        until it suffices, up to `MOST_STEPS`. records: conditions of one's own.
    """
    held_out = SeedBatch.from_manifest(sampler.bundle.manifest, seeds, records)

    def samples_of(plan: Plan) -> Floats:
        progress(f"checking the teacher: {plan.name}", 0, 1)
        samples = sample(plan, held_out) if sample else sampler.sample(plan, held_out.seeds, held_out.conditions)
        progress(f"checking the teacher: {plan.name}", 1, 1)
        return samples

    plan = teacher_plan(sampler, name, judged)
    finer = None if name is not None and _is_file(name) else _double_steps(sampler, plan, judged)
    if finer is not None:
        judged_samples, coarse = samples_of(judged), samples_of(plan)
    while finer is not None:
        fine = samples_of(finer)
        check = TeacherCheck(plan.name, _mean_psnr(coarse, fine), _mean_psnr(judged_samples, fine), len(seeds))
        if check.suffices or name is not None or len(plan.steps) >= MOST_STEPS:
            return Teacher(plan, check)
        plan, coarse, finer = finer, fine, _double_steps(sampler, finer, judged)
    return Teacher(plan, TeacherCheck(plan.name, None, None, 0))


def _double_steps(sampler: Sampler, plan: Plan, judged: Plan) -> Plan | None:
    """The plan with twice as many steps, or None: its times were given one by one, or it has all timesteps."""
    steps = plan.name.partition(":")[2].partition("@")[0]
    if not steps.isdecimal():
        return None
    try:
        return teacher_plan(sampler, with_steps(plan.name, 2 * int(steps)), judged)
    except UserError:
        return None


def _is_file(name: str) -> bool:
    return name.endswith(".json")


def _mean_psnr(samples: Floats, references: Floats) -> float:
    return float(psnr(samples, references).mean())
