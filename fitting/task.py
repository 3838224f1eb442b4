"""What a fit is asked to do: all that is opened, and checked, before the first call."""

from dataclasses import dataclass

from fewstep.evaluation.output import check_writable
from fewstep.evaluation.teacher import teacher_plan
from fewstep.fitting.options import FitOptions
from fewstep.fitting.rows import FitRows, fit_rows
from fewstep.fitting.start import Start, candidates, fitted_starts, named_start
from fewstep.graph.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.named import named
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body, load
from fewstep.runtime.sampler import Sampler

ROOM = 2**20  # bytes of a plan, which is seldom more
CPU = "onnxruntime"


@dataclass(frozen=True)
class FitTask:
    """`sampler` runs the body that is fitted to, `reference` the float32 body, for the teacher. `starts` are the plans
    that the fit may begin at; `rows` are the conditions of each use."""

    bundle: Bundle
    body: str
    sampler: Sampler
    reference: Sampler
    starts: tuple[Start, ...]
    teacher: Plan
    rows: FitRows
    guidance: Guidance | None

    @property
    def graph(self) -> str:
        """The SHA-256 of the body's graph."""
        return self.bundle.manifest.files[self.sampler.body.graph.file]


def open_task(options: FitOptions) -> FitTask:
    """Open everything. What cannot be done is a UserError here, not after minutes of sampling."""
    bundle = open_bundle(options.bundle)
    backend = named(options.backend, options.threads)
    body = choose_body(bundle, options.precision, backend)
    if "float32" not in bundle.manifest.bodies:
        what = f"{options.bundle} has no float32 body for the teacher"
        raise UserError(what, "fit in the bundle that this was packed from, and pack it again")
    sampler = load(options.bundle, options.precision, backend=backend)
    is_reference = body == "float32" and options.backend == CPU
    reference = sampler if is_reference else load(options.bundle, backend=named(CPU, options.threads))
    guidance = as_guidance(options.guidance)
    starts = _starts(sampler, options, guidance)
    rows = fit_rows(bundle, options.conditions, options.prompts)
    if options.output is not None:
        check_writable(options.output)
    with open_for_update(options.bundle, must_exist=True) as writer:
        writer.reserve(ROOM)  # and we may write, and nobody else is writing
    teacher = teacher_plan(reference, options.teacher or None, starts[0].nominal)
    return FitTask(bundle, body, sampler, reference, starts, teacher, rows, guidance)


def _starts(sampler: Sampler, options: FitOptions, guidance: Guidance | None) -> tuple[Start, ...]:
    """The plan that was asked for, or the known ones, with those that were fitted to another body for the same use."""
    if options.plan:
        return (named_start(sampler, options.plan, options.steps, guidance),)
    known = candidates(sampler, options.steps, guidance)
    return (*fitted_starts(sampler, options.steps, guidance), *(Start(plan, plan) for plan in known))
