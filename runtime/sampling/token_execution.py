"""The execution of token plans: how they are compiled for a denoiser, checked and run."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import AnyPlan, check_compiled, check_tokens, regroup
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import FittedReference, NamedReference, SchedulerReference, split_plan_name
from fewstep.plans.tokens.plan import IDS, USUAL, TokenPlan
from fewstep.runtime.arrays import Float32, as_numbers, broadcast_to_samples
from fewstep.runtime.bundle.manifest import Manifest, Vocabulary
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import free_x_shape
from fewstep.runtime.sampling.planned_run import PlannedRun, RunInputs
from fewstep.runtime.sampling.request import (
    GivenTensors,
    PlanRequest,
    Resolved,
    check_given_mapping,
    manifest_for_shape,
    plan_differences,
)
from fewstep.runtime.sampling.tokens import Ids, execute_tokens

AnyX = Float32 | Ids  # x [B, *x_shape] of either sample space
CONTINUOUS_ONLY = ("shaping", "strength", "renoise")  # settings that token plans do not have


@dataclass(frozen=True)
class TokenExecution:
    """The execution of token plans, by `execute_tokens`. `execution.Execution` documents the methods."""

    vocabulary: Vocabulary

    def resolve(self, reference: Resolved, request: PlanRequest) -> TokenPlan:
        if refused := [name for name in CONTINUOUS_ONLY if request.settings.get(name) is not None]:
            raise UserError(f"a token plan takes no {refused[0]}", "leave it out")
        facts, bundle, guidance, groups = request.facts, request.bundle, request.guidance, request.body.groups
        shape, size = bundle.manifest.x_shape, self.vocabulary.size
        match reference:
            case NamedReference(parts):
                from fewstep.plans.compile_tokens import compile_tokens  # loads all solvers; only a name needs them

                return compile_tokens(parts, facts, shape, size, guidance, groups)
            case SchedulerReference(steps):
                from fewstep.plans.compile_tokens import compile_tokens
                from fewstep.plans.configs.tokens import sampler_from_scheduler_config
                from fewstep.runtime.sampling.scheduler_plans import read_scheduler_config

                sampler = sampler_from_scheduler_config(read_scheduler_config(bundle), steps)
                return compile_tokens(replace(sampler, text=str(reference)), facts, shape, size, guidance, groups)
            case FittedReference():
                what = f"plan '{reference}' is for continuous samples, but this denoiser predicts tokens"
                raise UserError(what, f"use {USUAL}")
            case _:
                return self._check_plan(check_tokens(reference), bundle, guidance, groups)

    def _check_plan(
        self, plan: TokenPlan, bundle: Bundle, guidance: float | Guidance | None, groups: tuple[float, ...]
    ) -> TokenPlan:
        """Return a compiled plan whose steps are assigned to the body's range groups. Raises UserError for a plan that
        is not for samples of the manifest's shape, or has another guidance."""
        x_shape, by_name = bundle.manifest.x_shape, f"give the plan by its name, {plan.name!r}"
        if (plan.shape, plan.vocabulary) != (x_shape, self.vocabulary.size):
            is_for = f"plan {plan.name!r} is for {list(plan.shape)} tokens of {plan.vocabulary} ids"
            raise UserError(f"{is_for}, but this run has {list(x_shape)} of {self.vocabulary.size}", by_name)
        for problem in plan_differences(plan, guidance, bundle):
            raise UserError(f"plan {plan.name!r} {problem}", by_name)
        return regroup(plan, groups)

    def check_network(self, plan: AnyPlan, reads_time: bool) -> None:
        if reads_time and split_plan_name(plan.name).function == "first_hitting":
            what = f"plan {plan.name!r} evaluates at random times, and this denoiser takes a time"
            raise UserError(what, "use mdlm, or export a network that takes no time")

    def begin(self, plan: AnyPlan, inputs: RunInputs) -> PlannedRun:
        if inputs.settings.get("hold") is not None:
            check_compiled(plan, f"give known tokens: given={{{IDS!r}: ...}}", "a hold")
        plan = check_tokens(plan)
        self.check_network(plan, inputs.reads_time)
        known = self._check_known(inputs.settings.get("given"), plan, inputs.manifest.x_shape, len(inputs.seeds))
        logits = inputs.step_call(plan).logits
        states = execute_tokens(plan, logits, inputs.seeds, self.vocabulary.mask, known, inputs.reads_time)
        return inputs.run(plan, states)

    def check_x(self, x: ArrayLike, manifest: Manifest) -> tuple[Ids, Manifest]:
        size, mask, shape = self.vocabulary.size, self.vocabulary.mask, ", ".join(map(str, free_x_shape(manifest)))
        fix = f"give ids [B, {shape}] from 0 to {size - 1}, {mask} at masked positions"
        ids = as_numbers(x, "x", fix)
        takes = manifest_for_shape(ids.shape, manifest, fix)
        return _check_vocabulary("x", ids, self.vocabulary, mask, fix), takes

    def _check_known(self, given: GivenTensors | None, plan: TokenPlan, x_shape: tuple[int, ...], samples: int) -> Ids:
        """Return the known tokens [samples, *x_shape] of a run, with -1 at masked positions. Raises UserError for any
        other shape, and for invalid ids."""
        shape, size, mask = (samples, *x_shape), self.vocabulary.size, self.vocabulary.mask
        given = check_given_mapping(given)
        if plan.shape != x_shape:
            what = f"plan {plan.name!r} is for {list(plan.shape)} tokens, but this run has {list(x_shape)}"
            raise UserError(what, "compile it with the run's sizes, or give it by its name")
        if unknown := set(given) - {IDS}:
            raise UserError(
                f"the plan does not take {min(unknown)!r}", f"give {IDS!r}: known tokens, and -1 at masked positions"
            )
        fix = f"give whole numbers {list(shape)}: ids from 0 to {size - 1}, and -1 at masked positions"
        what, known = f"given {IDS!r}", given.get(IDS, np.full(shape, -1))
        known = broadcast_to_samples(as_numbers(known, what, fix), what, shape, fix)
        ids = _check_vocabulary(what, known, self.vocabulary, -1, fix)
        if (ids == mask).any():
            raise UserError(f"{what} contains the mask id {mask}", fix)
        return ids


def _check_vocabulary(what: str, ids: NDArray[Any], vocabulary: Vocabulary, opened: int, fix: str) -> Ids:
    """Return the ids as int64. Raises UserError for values outside the vocabulary; `opened`, the value that marks a
    masked position, is allowed."""
    if ids.dtype.kind not in "iu":
        raise UserError(f"{what} contains {ids.dtype}", fix)
    wrong = ids[((ids < 0) | (ids >= vocabulary.size)) & (ids != opened)]
    if wrong.size:
        raise UserError(f"{what} contains {wrong[0]}, an id outside the vocabulary", fix)
    return ids.astype(np.int64)


def vocabulary_of(manifest: Manifest) -> Vocabulary:
    """Return the vocabulary of a token denoiser."""
    assert manifest.vocabulary is not None
    return manifest.vocabulary
