"""Commands that a report prints to calibrate again, with the options of the calibration that made a body."""

from fewstep.calibration.options import GUIDANCE, CalibrateOptions
from fewstep.calibration.recorded_options import find_recorded_options
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.guidance import weight_of
from fewstep.plans.names.plan_name import is_plan_name
from fewstep.plans.names.plan_reference import join_plan_name, parse_plan_text, split_plan_name
from fewstep.plans.shaping import Clip
from fewstep.runtime.bundle.conditions import is_led_by_guidance
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sample_space import CONTINUOUS
from fewstep.runtime.sampling.calibrated_plans import read_default_plan


def calibrate_again(bundle: Bundle, body_name: str) -> CalibrateOptions:
    """Return options that calibrate a body again along the plan of its last calibration.

    Guidance and clip are those of the plan. The operations kept in float, the groups and the sizes are those of the
    recorded command. Default values are left out. A plan that exists only as a file cannot be named, so the default
    plan is used instead.
    """
    body = bundle.manifest.bodies.get(body_name)
    recorded = {} if body is None else find_recorded_options(bundle.manifest, body)
    kept = None if body is None else read_default_plan(bundle, body)
    if kept is None or not is_plan_name(kept.name):
        return CalibrateOptions(bundle.path, **recorded)
    shaping, name = shaping_of(kept), split_plan_name(kept.name)
    is_usual = join_plan_name(name.solver, name.steps, None) == CONTINUOUS.default_plan
    is_default = weight_of(kept.guidance) == GUIDANCE or not is_led_by_guidance(bundle.manifest.conditions)
    return CalibrateOptions(
        bundle.path,
        plan=None if is_usual else parse_plan_text(kept.name),
        guidance=None if is_default else 1.0 if kept.guidance is None else kept.guidance,
        clip=shaping.high if isinstance(shaping, Clip) and shaping.high == -shaping.low else None,
        **recorded,
    )
