"""The inputs of a fit: everything that is loaded and checked before the first call of the network."""

from dataclasses import dataclass, replace

from fewstep.fitting.conditions import FitConditions, fit_conditions
from fewstep.fitting.options import FitOptions
from fewstep.fitting.previous_fit import PreviousFit, find_previous_fit, warn_of_lost_plans
from fewstep.fitting.requirements import BODY, check_bundle, check_teacher
from fewstep.fitting.rollouts import FitSampler, RolloutJob, open_samplers
from fewstep.fitting.start_plans import Starts, select_starts
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.output_files import check_writable
from fewstep.measure.distances.features import Extractor, default_extractor, open_extractor
from fewstep.measure.judges.judge import Judge
from fewstep.measure.teacher import NO_TEACHER, is_distilled, teacher_plan
from fewstep.measure.workers.pinned_bundle import pin_bundle
from fewstep.plans.compile import check_guidance
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, describe, weight_of
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import find_defaults
from fewstep.runtime.sampling.fitted_plans import graph_of_fit
from fewstep.runtime.sampling.request import denoiser_facts

ROOM = 2**20  # bytes that are reserved for a plan, which seldom needs more


@dataclass(frozen=True)
class FitTask:
    """The inputs of a fit, loaded and checked.

    rolled: the samplers of the fitted body and of the float32 body, for the teacher.
    conditions: the records for each use.
    extractor: the network that computes features of samples; None if none is known for the data.
    teacher_reference: the teacher that the caller named; None for the default.
    graph: the digest of the body's graph, from `graph_of_fit`.
    previous: the previous fitted plan, which a new one would replace; None if there is none.
    judge: the user's measure of samples, which decides instead of PSNR; None without one.
    steps: the number of evaluations of the plan.
    seeds, selection_seeds, judge_seeds: the numbers of seeds for fitting, for selecting the best plan, and for judging
        it.
    iterations: the maximum number of iterations.
    """

    bundle: Bundle
    rolled: FitSampler
    starts: Starts
    teacher: Plan
    conditions: FitConditions
    guidance: Guidance | None
    extractor: Extractor | None
    teacher_reference: TextReference | None
    graph: str
    previous: PreviousFit | None
    judge: Judge | None
    steps: int
    seeds: int
    selection_seeds: int
    judge_seeds: int
    iterations: int


def set_default_guidance(options: FitOptions) -> FitOptions:
    """Return the options with the default guidance filled in, if they have none.

    Raises UserError for a calibrated guidance that is no single weight.
    """
    bundle = options.open()
    if options.guidance is not None or BODY not in bundle.manifest.bodies:
        return options
    guidance = find_defaults(bundle, bundle.body(BODY), options.plan).guidance
    weight = weight_of(guidance)
    if guidance is not None and weight is None:
        what = f"{options.bundle} is calibrated at guidance {describe(guidance)}, but a fit needs a single weight"
        raise UserError(what, "give one: --guidance WEIGHT")
    return replace(options, guidance=weight)


def open_fit_task(options: FitOptions) -> FitTask:
    """Open and check everything. Raises UserError for a fit that cannot succeed, before any sampling."""
    bundle = options.open()
    check_bundle(bundle, options.backend, options.threads)
    sampler, reference = open_samplers(options.bundle, options.backend, options.threads)
    job = RolloutJob(pin_bundle(options.bundle), options.backend)
    guidance = check_guidance(options.guidance, denoiser_facts(bundle.manifest))
    warn_of_lost_plans(bundle, options.steps, guidance)
    starts = select_starts(sampler, options.plan, options.steps, guidance)
    conditions = fit_conditions(bundle, options.conditions, options.prompts)
    features = options.features or default_extractor(bundle.manifest)
    extractor = open_extractor(features, bundle.manifest.x_shape, 1)  # more threads could change its last bits
    if options.output is not None:
        check_writable(options.output)
    with open_for_update(options.bundle, must_exist=True, verb="fit") as writer:
        writer.reserve(ROOM)  # this also checks write permission, and that no other process writes
    if options.teacher is None and is_distilled(reference, starts.nominal[0]):
        what = f"{bundle.manifest.name} {NO_TEACHER}"
        raise UserError(what, "run it along the plan of its training, or name a plan to fit to with --teacher")
    teacher = teacher_plan(reference, options.teacher, starts.nominal[0])
    check_teacher(teacher, options.steps)
    rolled = FitSampler(sampler, reference, job)
    graph = graph_of_fit(bundle.manifest, BODY)
    assert graph is not None, "it is opened"
    previous = find_previous_fit(bundle, graph, starts.nominal[0])
    numbers = options.steps, options.seeds, options.selection_seeds, options.judge_seeds, options.iterations
    given = bundle, rolled, starts, teacher, conditions, guidance, extractor, options.teacher
    return FitTask(*given, graph, previous, options.open_judge(bundle), *numbers)
