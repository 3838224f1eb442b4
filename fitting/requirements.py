"""Checks of the bundle and of the teacher of a fit, before the first call of the network."""

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import STATE, Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.fitted_plans import find_unfittable_plan
from fewstep.runtime.sampling.loading import choose_body

BODY = "float32"  # the body of all fits: fits to int8 gained nothing (lab/trials.md)


def check_bundle(bundle: Bundle, backend: str, threads: int) -> None:
    """Raise UserError for a bundle of a kind to which no plan can be fitted, or whose body does not run on the
    backend."""
    bundle.check_continuous("fit")
    if bundle.manifest.carried or bundle.manifest.positions:
        name = next((tensor.name for tensor in bundle.manifest.carried), STATE)
        what = f"{bundle.path} carries {name!r} from run to run, which a fit does not support"
        raise UserError(what, "run a plan by its name: plans of denoisers that carry tensors cannot be fitted")
    if bundle.manifest.self_condition:
        what = f"{bundle.path} takes its last prediction of x0, so a step changes the outputs of the next one"
        raise UserError(what, "run a plan by its name: plans of denoisers with self-conditioning cannot be fitted")
    if BODY not in bundle.manifest.bodies:
        what = f"{bundle.path} has no float32 body"
        raise UserError(what, "fit in the bundle that this was packed from, and pack it again")
    calibrated = find_unfittable_plan(bundle)
    if calibrated is not None and (shaping := shaping_of(calibrated)) is not None:
        along = f"{calibrated.name}, {describe_shaping(shaping)}"
        what = f"{bundle.path} was calibrated along {along}, but fitted plans do not clip"
        raise UserError(what, "run more steps, or fit before `fewstep calibrate` if samples need no clip")
    choose_body(bundle, BODY, create_backend(backend, threads))


def check_teacher(teacher: Plan, steps: int) -> None:
    """Raise UserError for a plan that cannot be a teacher, because it does not converge to the exact trajectory with
    more steps."""
    what = f"the plan {teacher.name} cannot be a teacher"
    if teacher.fitted is not None:
        raise UserError(
            f"{what}: it was fitted to a teacher itself", "leave --teacher out, or name SOLVER:STEPS of many steps"
        )
    if any(step.draws for step in teacher.steps):
        raise UserError(f"{what}: it draws noise in its steps", "leave --teacher out, or name another solver")
    if (count := len(teacher.steps)) <= steps:
        evaluations = "1 evaluation" if count == 1 else f"{count} evaluations"
        fix = f"name one with many more than {steps}, leave --teacher out, or give fewer --steps"
        raise UserError(f"{what}: it has {evaluations}, and the fitted plan has {steps}", fix)
