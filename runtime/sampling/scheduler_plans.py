"""Plans "scheduler:STEPS": the steps of the scheduler that came with a denoiser, as its pipeline runs them."""

from collections.abc import Sequence
from math import prod
from typing import Any

import msgspec

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINE, PIPELINES
from fewstep.plans.configs.recorded import needs_mu, read_recorded, read_steps
from fewstep.plans.configs.recorded_steps import compile_recorded_steps
from fewstep.plans.continuation.carried_banks import add_banks
from fewstep.plans.continuation.staircase import staircase
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import NameParts, SchedulerReference, join_plan_name
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.warnings import warn_once
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import network_at
from fewstep.runtime.bundle.reading import Bundle

USUAL_STEPS = 20  # number of steps of the default plan
SAME_TIMES = 1e-3  # share of the range of times; nearer ones are the same
FIRST_TIMES = 4  # times in a message


def scheduler_plan(
    steps: int, guidance: float | Guidance | None, guided: bool, bundle: Bundle, strength: float | None
) -> Plan:
    """Return the plan of a scheduler config for samples of the manifest's shape, each step with its network."""
    manifest, config, name = bundle.manifest, read_scheduler_config(bundle), str(SchedulerReference(steps))
    stored = read_steps(config)
    if stored is None:
        plan = _plan_by_rules(steps, guidance, guided, manifest, config, strength)
    elif strength is not None:
        what = f"plan {name!r} of {bundle.path} is recorded from noise, and not from an image"
        raise UserError(what, "leave --strength out, or give SOLVER:STEPS")
    else:
        facts = DenoiserFacts(manifest.schedule, manifest.prediction, guided, heads=manifest.heads)
        plan = compile_recorded_steps(stored, steps, facts, config, guidance)
    plan = add_banks(plan, manifest.carried, manifest.schedule)
    if manifest.positions is not None:
        plan = staircase(plan, manifest.positions.stairs(manifest), bundle.schedule)
    for network, each in manifest.networks.items():  # a scheduler has one prediction type
        if (each.prediction, each.heads) != (manifest.prediction, manifest.heads):
            what = f"plan {name!r} needs one prediction for all networks, and the network {network} has another"
            raise UserError(what, "give SOLVER:STEPS")
    named = tuple(msgspec.structs.replace(step, network=network_at(manifest, step.lam)) for step in plan.steps)
    return msgspec.structs.replace(plan, name=name, steps=named)  # the name from which it can be compiled again


def find_usual_guidance(bundle: Bundle) -> float | None:
    """Return the default guidance weight of the pipeline that a bundle was recorded from; None if it is unknown."""
    recorded = None if bundle.manifest.scheduler is None else read_recorded(read_scheduler_config(bundle))
    return None if recorded is None else recorded.guidance


def warn_of_own_times(plan: Plan, name: NameParts, bundle: Bundle) -> None:
    """Log a warning if a plan "euler:STEPS" of a flow has other times than "scheduler:STEPS" of its bundle, whose
    pipeline shifts them. A plan that starts from an image has the last of its times."""
    steps = int(name.steps)
    own, times = SchedulerReference(steps), _distinct_times(plan)
    try:
        theirs = _distinct_times(scheduler_plan(steps, None, True, bundle, None))[-len(times) :]
    except UserError as error:
        warn_once(f"plan {name.text!r} has equal steps in time; those of the model's scheduler are unknown: {error}")
        return
    tolerance = SAME_TIMES * bundle.manifest.schedule.timesteps
    if len(theirs) != len(times) or any(abs(a - b) > tolerance for a, b in zip(times, theirs, strict=True)):
        warn_once(
            f"plan {name.text!r} runs at the times {_list_times(times)}, and the scheduler of this model at "
            f"{_list_times(theirs)}: {own} takes those"
        )


def _distinct_times(plan: Plan) -> list[float]:
    """Return the times of a plan's steps. Solvers of second order evaluate most of them twice."""
    return list(dict.fromkeys(step.time for step in plan.steps))


def _list_times(times: Sequence[float]) -> str:
    """Return up to four times, as text."""
    return ", ".join(f"{time:.4g}" for time in times[:FIRST_TIMES]) + (", ..." if len(times) > FIRST_TIMES else "")


def usual_steps(bundle: Bundle, usual: int = USUAL_STEPS) -> int:
    """Return a number of steps for which a bundle has a plan "scheduler:STEPS": the largest that was recorded, or
    `usual` if nothing was recorded."""
    stored = read_steps(read_scheduler_config(bundle))
    return usual if stored is None else max(stored)


def _plan_by_rules(
    steps: int,
    guidance: float | Guidance | None,
    guided: bool,
    manifest: Manifest,
    config: dict[str, Any],
    strength: float | None,
) -> Plan:
    """Return the plan of a scheduler config by the rules of its class and its pipeline."""
    pipeline, name = config.get(PIPELINE), str(SchedulerReference(steps))
    if needs_mu(config, pipeline):
        raise UserError(
            f"plan {name!r}: its scheduler's shift depends on the number of tokens, and fewstep does not know the rule "
            f"of {pipeline or 'a pipeline without a name'}",
            f"name a solver and the number of tokens, such as {_with_tokens(steps, manifest.x_shape)!r}",
        )
    return plan_from_scheduler_config(
        config,
        steps=steps,
        guidance=guidance,
        guided=guided,
        pipeline=pipeline if pipeline in PIPELINES else None,
        x_shape=manifest.x_shape,
        strength=strength,
        self_condition=manifest.self_condition,
    )


def _with_tokens(steps: int, x_shape: Sequence[int]) -> str:
    """Return the name of a plan whose time shift depends on the number of tokens, each a patch of 2 by 2 elements."""
    count = prod(size // 2 for size in x_shape[1:])
    return join_plan_name("ddim", steps, f"dynamic_shift(tokens={count})")


def read_scheduler_config(bundle: Bundle) -> dict[str, Any]:
    """Return the scheduler config that came with a denoiser."""
    if bundle.manifest.scheduler is None:
        usual = bundle.manifest.space.default_plan
        fix = f"give SOLVER:STEPS such as {usual!r}, or export it with a scheduler in its spec"
        raise UserError(f"{bundle.path} has no scheduler: none came with its source", fix)
    file = bundle.manifest.scheduler
    config: dict[str, Any] = bundle.decode(file, dict[str, Any])
    try:
        read_recorded(config)
    except UserError as error:
        raise UserError(f"{bundle.path / file}: {error.what}", error.fix) from None
    return config
