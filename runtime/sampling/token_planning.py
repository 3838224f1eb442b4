"""Checks of requests to a token denoiser: a compiled plan, and known tokens."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.argument_checks import check_tokens
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import split_plan_name
from fewstep.plans.plan import group_of
from fewstep.plans.tokens.plan import IDS, TokenPlan
from fewstep.runtime.arrays import as_numbers, broadcast_to_samples
from fewstep.runtime.bundle.manifest import Manifest, Vocabulary
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import free_x_shape
from fewstep.runtime.sampling.request import (
    GivenTensors,
    check_given_mapping,
    manifest_for_shape,
    plan_differences,
)
from fewstep.runtime.sampling.tokens import Ids


def check_token_plan(
    plan: AnyPlan, bundle: Bundle, guidance: float | Guidance | None, groups: tuple[float, ...]
) -> TokenPlan:
    """Return a compiled plan with its steps in the body's range groups. Raises UserError for a plan that is not for
    samples of the manifest's shape, or has another guidance."""
    manifest = bundle.manifest
    vocabulary = vocabulary_of(manifest)
    plan = check_tokens(plan)
    by_name = f"give the plan by its name, {plan.name!r}"
    if (plan.shape, plan.vocabulary) != (manifest.x_shape, vocabulary.size):
        is_for = f"plan {plan.name!r} is for {list(plan.shape)} tokens of {plan.vocabulary} ids"
        raise UserError(f"{is_for}, but this run has {list(manifest.x_shape)} of {vocabulary.size}", by_name)
    for problem in plan_differences(plan, guidance, bundle):
        raise UserError(f"plan {plan.name!r} {problem}", by_name)
    steps = tuple(msgspec.structs.replace(step, group=group_of(step.lam, groups)) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps)


def check_ids(given: GivenTensors | None, plan: TokenPlan, manifest: Manifest, samples: int) -> Ids:
    """Return the known tokens [samples, *x_shape] of a run, -1 where a position is open."""
    shape, vocabulary, given = (samples, *manifest.x_shape), vocabulary_of(manifest), check_given_mapping(given)
    if plan.shape != manifest.x_shape:
        what = f"plan {plan.name!r} is for {list(plan.shape)} tokens, but this run has {list(manifest.x_shape)}"
        raise UserError(what, "compile it with the run's sizes, or give it by its name")
    if unknown := set(given) - {IDS}:
        raise UserError(f"the plan does not take {min(unknown)!r}", f"give {IDS!r}: known tokens, -1 where open")
    fix = f"give whole numbers {list(shape)}: ids from 0 to {vocabulary.size - 1}, -1 where a position is open"
    what, known = f"given {IDS!r}", given.get(IDS, np.full(shape, -1))
    ids = _check_vocabulary(
        what, broadcast_to_samples(as_numbers(known, what, fix), what, shape, fix), vocabulary, -1, fix
    )
    if (ids == vocabulary.mask).any():
        raise UserError(f"{what} contains the mask id {vocabulary.mask}", fix)
    return ids


def check_states(x: ArrayLike, manifest: Manifest) -> tuple[Ids, Manifest]:
    """Return a caller's ids [B, *x_shape], checked, and the manifest at their sizes."""
    vocabulary, shape = vocabulary_of(manifest), ", ".join(map(str, free_x_shape(manifest)))
    fix = f"give ids [B, {shape}] from 0 to {vocabulary.size - 1}, {vocabulary.mask} where a position is open"
    ids = as_numbers(x, "x", fix)
    takes = manifest_for_shape(ids.shape, manifest, fix)
    return _check_vocabulary("x", ids, vocabulary, vocabulary.mask, fix), takes


def _check_vocabulary(what: str, ids: NDArray[Any], vocabulary: Vocabulary, opened: int, fix: str) -> Ids:
    """Return the ids as int64. Raises UserError for values outside the vocabulary, except `opened`."""
    if ids.dtype.kind not in "iu":
        raise UserError(f"{what} contains {ids.dtype}", fix)
    wrong = ids[((ids < 0) | (ids >= vocabulary.size)) & (ids != opened)]
    if wrong.size:
        raise UserError(f"{what} contains {wrong[0]}, an id outside the vocabulary", fix)
    return ids.astype(np.int64)


def refuse_for_tokens(plan: AnyPlan, reads_time: bool) -> None:
    """Raise UserError for a token plan that a denoiser with a time input cannot run."""
    if reads_time and split_plan_name(plan.name).function == "first_hitting":
        what = f"plan {plan.name!r} evaluates at random times, and this denoiser takes a time"
        raise UserError(what, "use mdlm, or export a network that takes no time")


def vocabulary_of(manifest: Manifest) -> Vocabulary:
    """Return the vocabulary of a token denoiser."""
    assert manifest.vocabulary is not None
    return manifest.vocabulary
