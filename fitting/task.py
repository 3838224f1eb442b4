"""What a fit is asked to do: all that is opened, and checked, before the first call."""

from dataclasses import dataclass

from fewstep.calibration.workers.sent_bundle import sent
from fewstep.evaluation.output import check_writable
from fewstep.evaluation.teacher import teacher_plan
from fewstep.fitting.options import FitOptions
from fewstep.fitting.rollouts import RolloutJob, Rollouts, opened
from fewstep.fitting.rows import FitRows, fit_rows
from fewstep.fitting.start import Start, candidates, fitted_starts, named_start
from fewstep.graph.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.named import named
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body
from fewstep.runtime.sampler import Sampler

ROOM = 2**20  # bytes of a plan, which is seldom more


@dataclass(frozen=True)
class FitTask:
    """`starts` are the plans that the fit may begin at; `rows` are the conditions of each use."""

    bundle: Bundle
    body: str
    rolled: Rollouts
    starts: tuple[Start, ...]
    teacher: Plan
    rows: FitRows
    guidance: Guidance | None

    @property
    def sampler(self) -> Sampler:
        """Of the body that is fitted to."""
        return self.rolled.sampler

    @property
    def reference(self) -> Sampler:
        """Of the float32 body, for the teacher."""
        return self.rolled.reference

    @property
    def graph(self) -> str:
        """The SHA-256 of the body's graph."""
        return self.bundle.manifest.files[self.sampler.body.graph.file]


def open_task(options: FitOptions) -> FitTask:
    """Open everything. What cannot be done is a UserError here, not after minutes of sampling."""
    bundle = open_bundle(options.bundle)
    body = choose_body(bundle, options.precision, named(options.backend, options.threads))
    if "float32" not in bundle.manifest.bodies:
        what = f"{options.bundle} has no float32 body for the teacher"
        raise UserError(what, "fit in the bundle that this was packed from, and pack it again")
    sampler, reference = opened(options.bundle, options.precision, options.backend, options.threads)
    job = RolloutJob(sent(options.bundle, (body,)), options.precision, options.backend)
    guidance = as_guidance(options.guidance)
    starts = _starts(sampler, options, guidance)
    rows = fit_rows(bundle, options.conditions, options.prompts)
    if options.output is not None:
        check_writable(options.output)
    with open_for_update(options.bundle, must_exist=True) as writer:
        writer.reserve(ROOM)  # and we may write, and nobody else is writing
    teacher = teacher_plan(reference, options.teacher or None, starts[0].nominal)
    return FitTask(bundle, body, Rollouts(sampler, reference, job), starts, teacher, rows, guidance)


def _starts(sampler: Sampler, options: FitOptions, guidance: Guidance | None) -> tuple[Start, ...]:
    """The plan that was asked for, or the known ones, with those that were fitted to another body for the same use."""
    if options.plan:
        return (named_start(sampler, options.plan, options.steps, guidance),)
    known = candidates(sampler, options.steps, guidance)
    return (*fitted_starts(sampler, options.steps, guidance), *(Start(plan, plan) for plan in known))
