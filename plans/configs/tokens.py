"""Schedulers of token denoisers: which positions aMUSEd and LLaDA2 reveal at each step."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from fewstep.plans.configs.config import SchedulerConfig, read_config, resolve
from fewstep.plans.errors import UserError
from fewstep.plans.tokens.plan import TokenStep
from fewstep.plans.tokens.samplers import Shape, TokenPlanName, maskgit, split_evenly

Sampler = Callable[[SchedulerConfig, Shape, int], tuple[TokenStep, ...]]

AMUSED = {"mask_token_id": 0, "masking_schedule": "cosine"}
BLOCKS = {
    "block_length": 32,
    "num_inference_steps": 32,
    "threshold": 0.95,
    "editing_threshold": None,
    "minimal_topk": 1,
}


def amused(config: SchedulerConfig, shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """Return the steps of AmusedScheduler with the default temperatures of its `set_timesteps`, from 2 to 0."""
    return maskgit(shape, steps, linear=config["masking_schedule"] == "linear")


def blocks(config: SchedulerConfig, shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """Return the steps of BlockRefinementScheduler as LLaDA2's pipeline runs it: `steps` steps per block, at
    temperature 0.

    A shorter last block reveals as many tokens per step as a whole block, until no positions are left.
    """
    size, threshold, least = (config[name] for name in ("block_length", "threshold", "minimal_topk"))
    if (config["editing_threshold"] or 0) > 0:
        raise config.field_error("editing_threshold", "a plan keeps the tokens that it has revealed", "set null")
    if size < 1 or least < 1 or not 0 <= threshold <= 1:
        fix = "give block_length and minimal_topk from 1 up, and a threshold from 0 to 1"
        raise UserError(
            f"{config.source}: block_length {size}, minimal_topk {least} or threshold {threshold:g} is out of range",
            fix,
        )
    rows, length, plan = prod(shape[:-1]), shape[-1], list[TokenStep]()
    for first in range(0, length, size):
        place = (first, min(first + size, length))
        left = rows * (place[1] - first)
        for count in split_evenly(rows * size, max(1, min(steps, prod(shape) // least))):
            if reveal := min(count, left):
                rule = TokenStep(reveal=reveal, score="drawn", temperature=0.0, threshold=threshold, positions=place)
                plan.append(rule)
            left -= reveal
    return tuple(plan)


SAMPLERS: dict[str, tuple[dict[str, Any], Sampler]] = {  # classes of diffusers: defaults of fields, and the sampler
    "AmusedScheduler": (AMUSED, amused),
    "BlockRefinementScheduler": (BLOCKS, blocks),
}


def sampler_from_scheduler_config(config: str | Path | Mapping[str, Any], steps: int) -> TokenPlanName:
    """Return the token sampler of a diffusers scheduler, for `compile_tokens`.

    Args:
        config: a scheduler_config.json, the scheduler's or pipeline's folder that contains it, or its fields.
        steps: the pipeline's num_inference_steps, from 1 up.
    """
    if steps < 1:
        raise UserError(f"a token scheduler cannot run in {steps} steps", "give 1 or more")
    source, fields = read_config(config)
    name = str(fields.get("_class_name"))
    if name not in SAMPLERS:
        raise UserError(f"{source}: {name} is not a token scheduler", f"choose one of {', '.join(SAMPLERS)}")
    defaults, sampler = SAMPLERS[name]
    return TokenPlanName(f"{name}:{steps}", partial(sampler, resolve(source, fields, name, defaults)), steps)
