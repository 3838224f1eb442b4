"""The plan and the engine that a request of `fewstep run` names."""

import logging

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.request import RunRequest
from fewstep.cli.run_plan import check_given_by_options, count_branches
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import UNCOND
from fewstep.plans.names.plan_reference import FileReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import clip_to
from fewstep.report.choosing.engines import fix_batch_size, make_backend
from fewstep.report.choosing.saved_choice import SavedChoice
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.conditions import is_led_by_guidance
from fewstep.runtime.sampling.calibrated_plans import find_calibrated_body
from fewstep.runtime.sampling.request import PlanSettings
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.scheduler_plans import find_usual_guidance

LOG = logging.getLogger("fewstep")


def open_backend(options: RunOptions, choice: SavedChoice | None, batch: int) -> Backend:
    """Return the backend for calls on a batch with all branches of guidance."""
    branches = count_branches(options.plan, options.guidance)
    if choice is not None:
        return make_backend(choice.winner.engine, batch * branches)
    return fix_batch_size(create_backend(options.backend, options.threads), batch * branches)


def compile_plan(request: RunRequest, sampler: Sampler) -> Plan:
    """Return the requested plan, or the default. Raises UserError if the options do not fit it."""
    options, branches = request.options, request.branches
    settings: PlanSettings = {
        "shaping": clip_to(options.clip),
        "strength": options.start,
        "branches": branches,
    }
    if (choice := request.choice) is not None:
        settings["shaping"] = choice.settings["shaping"]
        plan = sampler.compile(options.plan, choice.settings["guidance"], **settings)
    else:
        plan = sampler.compile(options.plan, options.guidance, **settings)
    check_given_by_options(plan, {*request.values, *request.given})
    if branches and not any(UNCOND in step.branches for step in plan.steps):
        given = "--negative" if options.negative else f"the negative prompt of {options.conditions}"
        raise UserError(f"{given} without guidance has no effect", "give a weight: --guidance 7.5")
    manifest = sampler.bundle.manifest
    by_calibration = find_calibrated_body(manifest, sampler.body) and not isinstance(options.plan, FileReference)
    is_decided = options.guidance is not None or choice is not None or by_calibration
    if any(options.prompts) and not is_decided and is_led_by_guidance(manifest.conditions):
        weight = find_usual_guidance(sampler.bundle)
        usual = "most models need 4 to 8 to follow a prompt closely; distilled ones need none"
        LOG.warning("no --guidance given: %s", usual if weight is None else f"that of its pipeline is {weight:g}")
    return plan
