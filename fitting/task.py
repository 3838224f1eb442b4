"""What a fit is asked to do: all that is opened, and checked, before the first call."""

from dataclasses import dataclass

from fewstep.evaluation.output import check_writable
from fewstep.evaluation.teacher import teacher_plan
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import recurrence_of
from fewstep.fitting.rows import FitRows, fit_rows
from fewstep.fitting.start import candidates
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
    starts: tuple[Plan, ...]
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
    teacher = teacher_plan(reference, options.teacher or None, starts[0])
    return FitTask(bundle, body, sampler, reference, starts, teacher, rows, guidance)


def _starts(sampler: Sampler, options: FitOptions, guidance: Guidance | None) -> tuple[Plan, ...]:
    """The plan that was asked for, or the known ones."""
    if not options.plan:
        return candidates(sampler, options.steps, guidance)
    nominal = sampler.compile(options.plan, guidance)
    recurrence_of(nominal)  # refuses what cannot be fitted
    if len(nominal.steps) != options.steps:
        what = f"plan {nominal.name!r} has {len(nominal.steps)} evaluations, and --steps is {options.steps}"
        raise UserError(what, "give the same number of both")
    return (nominal,)
