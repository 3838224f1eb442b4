"""Parse the name of a token plan: SAMPLER[(parameter=value, ...)]:STEPS, with a function of `token_samplers`."""

from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import bind_call
from fewstep.plans.names.namespace import Namespace
from fewstep.plans.names.plan_name import SOLVERS, PlanName, parse_plan_name, split_name, step_count
from fewstep.plans.names.plan_reference import NameParts
from fewstep.plans.tokens import samplers as token_samplers
from fewstep.plans.tokens.samplers import TokenPlanName

SAMPLERS = Namespace("sampler", token_samplers, lambda label, made: made, has_plugins=False)


def parse_token_plan_name(name: str | NameParts) -> TokenPlanName:
    """Parse a token plan's name. Raises UserError, which suggests names, for an invalid name."""
    parts = split_name(name)
    if parts.home is None and (parts.function in SOLVERS.aliases or parts.function in SOLVERS):
        names = ", ".join(f"{name}:8" for name in token_samplers.__all__)
        raise UserError(f"plan '{parts}' is for continuous samples, but this denoiser predicts tokens", f"use {names}")
    sampler, text = bind_call(parts.home or parts.solver, parts.text, SAMPLERS)
    if parts.light is not None:
        raise UserError(f"plan '{parts}' has light steps, but token plans have none", f"write it as {text}:8")
    if parts.grid is not None:
        raise UserError(f"plan '{parts}' has a grid, but token plans have none", f"write it as {text}:8")
    if not (steps := step_count(parts, text)):
        raise UserError(f"plan '{parts}' has no steps", f"write it as {text}:8")
    return TokenPlanName(f"{text}:{steps}", sampler, steps)


def is_token_plan_name(name: str | NameParts) -> bool:
    """True if a name begins with a token sampler."""
    parts = split_name(name)
    return parts.home is None and parts.function in token_samplers.__all__


def parse_any_plan_name(name: str | NameParts) -> PlanName | TokenPlanName:
    """Parse a name of either sample space. Raises UserError for an invalid name."""
    return parse_token_plan_name(name) if is_token_plan_name(name) else parse_plan_name(name)
