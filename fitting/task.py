"""The task of a fit: everything that is opened and checked before the first call of the network."""

import logging
from dataclasses import dataclass

from fewstep.fitting.conditions import FitConditions, fit_conditions
from fewstep.fitting.options import FitOptions
from fewstep.fitting.rollouts import FitSampler, RolloutJob, open_samplers
from fewstep.fitting.start_plans import Starts, select_starts
from fewstep.graph.commit import open_for_update
from fewstep.graph.output_files import check_writable
from fewstep.measure.distances.features import Extractor, default_extractor, open_extractor
from fewstep.measure.teacher import NO_TEACHER, is_distilled, teacher_plan
from fewstep.measure.workers.pinned_bundle import pin_bundle
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.compile import check_guidance
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.names.plan_reference import TextReference, split_plan_name
from fewstep.plans.plan import STATE, Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.fit_command import weight_of_fit
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import own_plan
from fewstep.runtime.sampling.fitted_plans import graph_of_fit, read_fitted_plans
from fewstep.runtime.sampling.loading import choose_body
from fewstep.runtime.sampling.request import denoiser_facts
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
BODY = "float32"  # the body of all fits: fits to int8 gained nothing (lab/trials.md)
ROOM = 2**20  # bytes that are reserved for a plan, which seldom needs more


@dataclass(frozen=True)
class FitTask:
    """The opened inputs of a fit.

    conditions: the records for each use.
    extractor: the network that computes features of samples; None if none is known for the data.
    teacher_reference: the teacher that the caller named; None for the default.
    steps: the plan's evaluations.
    seeds, selection_seeds, judge_seeds: numbers of seeds of the fit, of its choices and of its judgement.
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
    steps: int
    seeds: int
    selection_seeds: int
    judge_seeds: int
    iterations: int

    @property
    def sampler(self) -> Sampler:
        """The sampler of the body to which the plan is fitted."""
        return self.rolled.sampler

    @property
    def reference(self) -> Sampler:
        """The sampler of the float32 body, for the teacher."""
        return self.rolled.reference

    @property
    def graph(self) -> str:
        """The digest of the body's graph, from `graph_of_fit`."""
        graph = graph_of_fit(self.bundle.manifest, BODY)
        assert graph is not None, "it is opened"
        return graph


def open_fit_task(options: FitOptions) -> FitTask:
    """Open and check everything. Raises UserError for a fit that cannot succeed, before any sampling."""
    bundle = options.open()
    bundle.check_continuous("fit")
    if bundle.manifest.carried or bundle.manifest.positions:
        name = next((each.name for each in bundle.manifest.carried), STATE)
        what = f"{options.bundle} carries {name!r} from run to run"
        raise UserError(what, "run a plan by its name: only denoisers that carry nothing can be fitted")
    if bundle.manifest.self_condition:
        what = f"{options.bundle} takes its last prediction of x0, so a step changes the outputs of the next one"
        raise UserError(what, "run a plan by its name: only denoisers that take x alone can be fitted")
    if BODY not in bundle.manifest.bodies:
        what = f"{options.bundle} has no float32 body"
        raise UserError(what, "fit in the bundle that this was packed from, and pack it again")
    calibrated = own_plan(bundle, bundle.body(BODY))  # schedulers clip by default, --clip only if samples need it
    is_scheduler = calibrated is not None and split_plan_name(calibrated.name).is_of_scheduler
    if calibrated is not None and not is_scheduler and (shaping := shaping_of(calibrated)) is not None:
        along = f"{calibrated.name}, {describe_shaping(shaping)}"
        what = f"{options.bundle} was calibrated along {along}, but fitted plans do not clip"
        raise UserError(what, "run more steps, or fit before `fewstep calibrate` if samples need no clip")
    choose_body(bundle, BODY, create_backend(options.backend, options.threads))
    sampler, reference = open_samplers(options.bundle, options.backend, options.threads)
    job = RolloutJob(pin_bundle(options.bundle), options.backend)
    guidance = check_guidance(options.guidance, denoiser_facts(bundle.manifest))
    _warn_of_lost(bundle, options.steps, guidance)
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
    _check_teacher(teacher, options.steps)
    rolled = FitSampler(sampler, reference, job)
    numbers = options.steps, options.seeds, options.selection_seeds, options.judge_seeds, options.iterations
    return FitTask(bundle, rolled, starts, teacher, conditions, guidance, extractor, options.teacher, *numbers)


def _check_teacher(teacher: Plan, steps: int) -> None:
    """Raise UserError for a plan that cannot follow the exact trajectory, whatever its samples show."""
    what = f"the plan {teacher.name} cannot be a teacher"
    if teacher.fitted is not None:
        raise UserError(f"{what}: its numbers were fitted", "leave --teacher out, or name SOLVER:STEPS of many steps")
    if any(step.draws for step in teacher.steps):
        raise UserError(f"{what}: it draws noise in its steps", "leave --teacher out, or name another solver")
    if (count := len(teacher.steps)) <= steps:
        evaluations = "1 evaluation" if count == 1 else f"{count} evaluations"
        fix = f"name one with many more than {steps}, leave --teacher out, or give fewer --steps"
        raise UserError(f"{what}: it has {evaluations}, and the fitted plan has {steps}", fix)


def _warn_of_lost(bundle: Bundle, steps: int, guidance: Guidance | None) -> None:
    """Warn of each fitted plan whose file cannot be read. The new plan replaces such a plan only if both are for the
    same use."""
    for entry in bundle.manifest.fitted:
        for error in read_fitted_plans(bundle, [entry])[1]:
            weight = weight_of_fit(bundle.path, bundle.manifest, entry)
            is_same = (entry.body, entry.evaluations, as_guidance(weight)) == (BODY, steps, guidance)
            ending = "this fit replaces it" if is_same else f"this fit does not replace it; {error.fix}"
            LOG.warning("%s; %s", error.what, ending)
