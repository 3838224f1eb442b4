"""How the plans of a sample space are compiled, checked and run. `execution_of` returns the execution of a space.

`ContinuousExecution` is here, and `TokenExecution` in `token_execution.py`. `PlanCompiler` compiles the plans of a
sampler's runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.any_plan import AnyPlan, PlanLike, PlanReference, check_compiled, parse_plan_reference, regroup
from fewstep.plans.errors import UserError
from fewstep.plans.file import read_plan
from fewstep.plans.guidance import UNCOND, Guidance
from fewstep.plans.names.plan_reference import FileReference, FittedReference, NamedReference, SchedulerReference
from fewstep.plans.plan import DENOISER, Plan
from fewstep.plans.shaping import as_shaping
from fewstep.plans.strength import refuse_all_steps
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sample_space import SampleSpace, Vocabulary
from fewstep.runtime.sampling.calibrated_plans import find_default_plan, find_defaults
from fewstep.runtime.sampling.execute import execute
from fewstep.runtime.sampling.fitted_plans import find_fitted
from fewstep.runtime.sampling.planned_run import PlannedRun, RunInputs
from fewstep.runtime.sampling.request import (
    PlanRequest,
    PlanSettings,
    Resolved,
    RunSettings,
    check_branches,
    check_hold,
    check_plan,
    check_tensors,
    check_x,
    denoiser_facts,
    recompile_hint,
)
from fewstep.runtime.sampling.token_execution import AnyX, TokenExecution

NO_SETTINGS = PlanSettings()
PLANS_KEPT = 16


class Execution(Protocol):
    """The functions that a sampler needs for the plans and samples of a space."""

    def resolve(self, reference: Resolved, request: PlanRequest) -> AnyPlan:
        """Return the plan of a reference, compiled or checked, with steps in the body's range groups."""

    def check_network(self, plan: AnyPlan, reads_time: bool) -> None:
        """Raise UserError for a plan that the network cannot run. reads_time: whether the network takes a time."""

    def begin(self, plan: AnyPlan, inputs: RunInputs) -> PlannedRun:
        """Check a run along a plan of `resolve`. Its states are computed lazily, and not checked."""

    def check_x(self, x: ArrayLike, manifest: Manifest) -> tuple[AnyX, Manifest]:
        """Check states [B, *x_shape] that a caller passes. Return them as an array, and the manifest for their
        sizes."""


class ContinuousExecution:
    """The execution of plans of continuous samples, by `execute`."""

    def resolve(self, reference: Resolved, request: PlanRequest) -> Plan:
        facts, bundle, body, guidance = request.facts, request.bundle, request.body, request.guidance
        if guidance is not None:
            from fewstep.plans.compile import check_guidance

            check_guidance(guidance, facts)  # before the plan: no plan works with a guidance that the denoiser lacks
        given, strength = request.settings.get("shaping"), request.settings.get("strength")
        shaping = as_shaping(given)
        renoise = request.settings.get("renoise")
        match reference:
            case NamedReference(parts):
                from fewstep.plans.compile import bind_plan_name, compile_plan  # load all solvers; only names need them

                name = bind_plan_name(parts, facts, strength)
                plan = compile_plan(name, facts, guidance, shaping, body.groups, strength, renoise)
                if facts.schedule.kind == "flow" and parts.means_equal_steps and bundle.manifest.scheduler is not None:
                    from fewstep.runtime.sampling.scheduler_plans import warn_of_own_times  # slow to load

                    warn_of_own_times(plan, parts, bundle)
                return plan
            case FittedReference(evaluations):
                plan = find_fitted(evaluations, bundle, body, guidance, shaping, refuse_all_steps(strength, reference))
                guidance = None  # `find_fitted` has already checked it
            case SchedulerReference(steps):
                if renoise is not None or given is not None:
                    taken = "renoise" if given is None else "clip or other shaping, only that of its scheduler's config"
                    raise UserError(f"plan '{reference}' takes no {taken}", "leave it out, or give SOLVER:STEPS")
                from fewstep.runtime.sampling.scheduler_plans import scheduler_plan  # rarely needed and slow to load

                plan = scheduler_plan(steps, guidance, facts.guided, bundle, refuse_all_steps(strength, reference))
            case _:
                plan = check_compiled(reference, "use dpmpp_2m:8")
        check_plan(plan, guidance, strength, renoise, bundle)
        if given is not None and {step.shaping for step in plan.steps} - {None} != {shaping} - {None}:
            raise UserError(f"plan {plan.name!r} was compiled without shaping {given}", recompile_hint(plan))
        return regroup(plan, {DENOISER: body.groups} if bundle.manifest.networks else body.groups)

    def check_network(self, plan: AnyPlan, reads_time: bool) -> None:
        pass

    def begin(self, plan: AnyPlan, inputs: RunInputs) -> PlannedRun:
        plan = check_compiled(plan)
        hold = check_hold(inputs.settings.get("hold"), plan, inputs.manifest.x_shape, len(inputs.seeds))
        network = inputs.step_call(plan).step_network
        states = execute(plan, network, inputs.draws, np.float32, inputs.given_tensors(plan), hold)
        return inputs.run(plan, states, hold)

    def check_x(self, x: ArrayLike, manifest: Manifest) -> tuple[AnyX, Manifest]:
        return check_x(x, manifest)


def execution_of(space: SampleSpace) -> Execution:
    """Return the execution of a sample space."""
    return TokenExecution(space) if isinstance(space, Vocabulary) else ContinuousExecution()


def plan_for(
    bundle: Bundle,
    body: Body,
    reference: PlanReference,
    guidance: float | Guidance | None = None,
    settings: PlanSettings = NO_SETTINGS,
) -> AnyPlan:
    """Compile or read the plan for a body. Its steps are assigned to the body's range groups.

    `Sampler.compile` documents the arguments. Unlike there, guidance or shaping that is not given means none.
    """
    facts = denoiser_facts(bundle.manifest)
    if UNCOND in (settings.get("branches") or {}):
        facts = replace(facts, guided=True)
    if isinstance(reference, FileReference):
        reference = read_plan(bundle.check_path(reference.path))
    request = PlanRequest(facts, bundle, body, guidance, settings)
    return execution_of(bundle.manifest.space).resolve(reference, request)


@dataclass(frozen=True)
class PlanCompiler:
    """Compiles plans for a denoiser. Plans that it compiled recently are not checked again when they are passed back to
    it.

    body: the body of the network DENOISER. groups_of_others: the range groups of the other networks' bodies.
    """

    bundle: Bundle
    body: Body
    groups_of_others: Mapping[str, tuple[float, ...]]

    def compile(self, reference: PlanReference, guidance: float | Guidance | None, settings: PlanSettings) -> AnyPlan:
        """Return the plan of a reference. A missing guidance or shaping means none. `Sampler.compile` documents the
        arguments; settings of a run are allowed."""
        is_plain = guidance is None and all(settings.get(name) is None for name in PlanSettings.__annotations__)
        if is_plain and isinstance(reference, AnyPlan) and self._recent_plans.get(id(reference)) is reference:
            return reference
        compiled = regroup(plan_for(self.bundle, self.body, reference, guidance, settings), self.groups_of_others)
        return self._recent_plans.get_or_make(id(compiled), lambda: compiled)

    def compile_as_calibrated(
        self, plan: PlanLike | None, guidance: float | Guidance | None, settings: PlanSettings
    ) -> AnyPlan:
        """Return the compiled plan. A missing plan, guidance or shaping is replaced by that of the calibration."""
        if plan is None:
            reference = find_default_plan(self.bundle, self.body, guidance, settings)
        else:
            reference = parse_plan_reference(plan)
        if isinstance(reference, AnyPlan) or (guidance is not None and settings.get("shaping") is not None):
            return self.compile(reference, guidance, settings)
        defaults = find_defaults(self.bundle, self.body, reference)
        if settings.get("shaping") is None and defaults.shaping is not None:
            settings = {**settings, "shaping": defaults.shaping}
        return self.compile(reference, defaults.guidance if guidance is None else guidance, settings)

    def compile_for_run(
        self, plans: Sequence[PlanLike | None], guidance: float | Guidance | None, settings: RunSettings
    ) -> list[AnyPlan]:
        """Compile the plans of a run, and check them against its branches, carried tensors and x's sizes."""
        compiled = [self.compile_as_calibrated(plan, guidance, settings) for plan in plans]
        check_branches(settings.get("branches"), compiled, guidance)
        for plan in compiled:
            check_tensors(plan, self.bundle.manifest.x_shape)
            if settings.get("carried") is not None and not plan.banks:
                raise UserError(f"{self.bundle.path} carries no tensors from run to run", "leave carried out")
        return compiled

    @cached_property
    def _recent_plans(self) -> LruCache[int, AnyPlan]:
        """The most recently checked plans, by identity."""
        return LruCache(PLANS_KEPT)
