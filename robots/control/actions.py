"""Sample sequences of actions, each as the continuation of the previous one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import as_integer, refuse_options
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.robots.control.chunk import Float32, pad_actions
from fewstep.robots.control.history import Window
from fewstep.runtime.arrays import as_finite
from fewstep.runtime.bundle.manifest import Manifest, Policy
from fewstep.runtime.kinds.policies import action_origin, action_shape, policy_of, state_words
from fewstep.runtime.sampling.execute import Hold, StepState, finish
from fewstep.runtime.sampling.finite_checks import check_finite, warn_if_far
from fewstep.runtime.sampling.sampler import Sampler

Continuity = Literal["none", "hard", "trained"]


@dataclass(frozen=True)
class SequenceRequest:
    """A request for a sequence that begins at the tick of the window.

    former: the actions [k, ...] of the previous sequence from that tick on, in the robot's units; None or empty at the
        start of an episode.
    decided: the number of former actions that the robot executes while this sequence is sampled.
    """

    window: Window
    seed: int
    former: ArrayLike | None = None
    decided: int = 0


def sample_actions(
    sampler: Sampler,
    plan: Plan | str,
    window: Window,
    seed: int = 0,
    former: ArrayLike | None = None,
    decided: int = 0,
    continuity: Continuity | None = None,
    **others: Any,
) -> Float32:
    """Sample actions [n, ...] in the robot's units, from the tick of the window on. The robot executes the first
    `policy.actions` (manifest) of them. The rest is the policy's prediction for later ticks.

    Args:
        former: the actions [k, ...] of the previous sequence from this tick on, in the robot's units.
        decided: the number of former actions that will be executed in any case.
        continuity: how the sequence continues the previous one.
            "trained" passes the decided actions to a network that was trained to continue them, and holds them.
            "hard" only holds the decided actions.
            "none" holds nothing.
            None means "trained" for a network that was trained this way, otherwise "hard".
    """
    refuse_options(others)
    actions, _ = sample_sequences(sampler, plan, [SequenceRequest(window, seed, former, decided)], continuity)
    one: Float32 = actions[0]
    return one


def sample_sequences(
    sampler: Sampler,
    plan: Plan | str,
    requests: Sequence[SequenceRequest],
    continuity: Continuity | None = None,
    enough: Callable[[], bool] | None = None,
) -> tuple[Float32, int]:
    """Sample action sequences [len(requests), n, ...] in the robot's units as one batch. Return them and the number of
    steps that were run.

    `enough` is called after each step. If it returns True, sampling ends early, with the sequences x0 predicted at that
    step. A baked file of the whole run, if the sampler has one for this call, has no such steps.

    Raises UserError for no requests, for windows of different names, and for a wrong number or shape of former actions.
    """
    manifest = sampler.bundle.manifest
    policy = policy_of(manifest)
    continuity = check_continuity(continuity, policy)
    formers = _check_requests(manifest, requests)
    compiled = sampler.compile(plan)
    if check_compiled(compiled).given:
        raise UserError(f"plan {compiled.name!r} starts from {compiled.given[0]!r}", "compile it without a strength")
    origins: Float32 | None = None
    if policy.relative_to is not None:
        origins = np.stack([action_origin(manifest, request.window) for request in requests])[:, None]
    hold: Hold | None = None
    holds = continuity != "none" and any(request.decided for request in requests)
    if holds or policy.prefix is not None:
        hold = _make_hold(sampler, origins, requests, formers, continuity)
    values = _stack_windows(manifest, requests)
    if hold is not None and policy.prefix is not None and policy.delay is not None:
        counts = [
            request.decided if continuity == "trained" and request.decided <= policy.most_delay else 0
            for request in requests
        ]
        values |= {policy.prefix: hold.value_at(0), policy.delay: np.array(counts, np.float32)[:, None]}
    seeds = [request.seed for request in requests]
    x, steps = _sample(sampler, compiled, seeds, values, hold if holds else None, enough)
    sequences = (x if manifest.units is None else sampler.to_units(x))[:, policy.first :]
    if policy.width is not None:
        sequences = sequences[..., : policy.width]
    return policy.snap_discrete(sequences if origins is None else sequences + origins), steps


def _sample(
    sampler: Sampler,
    plan: Plan,
    seeds: Sequence[int],
    values: Mapping[str, NDArray[Any]],
    hold: Hold | None,
    enough: Callable[[], bool] | None,
) -> tuple[Float32, int]:
    """Return the samples [len(seeds), *x_shape] in model range, and the number of steps that were run, for
    `sample_sequences`."""
    whole = sampler.runs.sample_whole(plan, seeds, values, hold)
    if whole is not None:
        return whole, len(plan.steps)
    last: StepState | None = None
    early = False
    for last in sampler.steps(plan, seeds, values, hold=hold):
        early = enough is not None and last.index + 1 < len(plan.steps) and enough()
        if early:
            break
    assert last is not None
    x = np.asarray(last.x0 if early else finish(plan, [last]), np.float32)
    if hold is not None:
        x = np.where(hold.mask, hold.value_at(0), x)
    check_finite(x, "the sample", last.index, last.step, plan)
    return warn_if_far(x, plan, sampler.bundle.manifest), last.index + 1


def check_continuity(continuity: Continuity | None, policy: Policy) -> Continuity:
    """Check the continuity. None becomes "trained" for a policy with a prefix, otherwise "hard"."""
    if continuity is None:
        return "hard" if policy.prefix is None else "trained"
    if continuity not in get_args(Continuity):
        raise UserError(f"unknown continuity {continuity!r}", f"choose one of {', '.join(get_args(Continuity))}")
    if continuity == "trained" and policy.prefix is None:
        raise UserError(
            "continuity 'trained' needs a policy with inputs for decided actions",
            "use 'hard', or export with Policy(prefix=..., delay=..., most_delay=...)",
        )
    return continuity


def _check_requests(manifest: Manifest, requests: Sequence[SequenceRequest]) -> list[Float32 | None]:
    """Return the previous sequence of each request; None if there is none. Raises UserError as `sample_sequences`."""
    if not requests:
        raise UserError("there are no requests", "give one or more")
    names = requests[0].window.keys()
    for number, each in enumerate(requests):
        if each.window.keys() != names:
            unlike = ", ".join(map(repr, sorted(each.window.keys() ^ names)))
            what = f"windows 0 and {number} differ: only one has {unlike}"
            raise UserError(what, "give each window the same conditions")
    places, shape = manifest.x_shape[0] - policy_of(manifest).first, action_shape(manifest)
    return [_check_former(request.former, places, shape, request.decided) for request in requests]


def _stack_windows(manifest: Manifest, requests: Sequence[SequenceRequest]) -> dict[str, Any]:
    """Return the conditions [len(requests), ...] of the requests by name, without an observation that prompts
    contain."""
    words, windows = state_words(manifest), [request.window for request in requests]
    names = [name for name in windows[0] if words is None or name != words.observation]
    if len(windows) == 1 and not any(isinstance(windows[0][name], np.ma.MaskedArray) for name in names):
        return {name: np.asarray(windows[0][name])[None] for name in names}  # of most control loops
    return {name: [window[name] for window in windows] for name in names}  # numpy's stack would drop masks


def _make_hold(
    sampler: Sampler,
    origins: Float32 | None,
    requests: Sequence[SequenceRequest],
    formers: Sequence[Float32 | None],
    continuity: Continuity,
) -> Hold:
    """Return the previous action sequences `formers` as [B, *x_shape] in model range, with a mask that is 1 for those
    actions that the new sequences must repeat. Actions are relative to `origins` [B, 1, *elements]."""
    manifest = sampler.bundle.manifest
    policy = policy_of(manifest)
    places, own = manifest.x_shape[0] - policy.first, np.s_[..., : policy.width]
    value = np.zeros((len(requests), *manifest.x_shape), np.float32)
    mask = np.zeros_like(value)
    for row, (each, former) in enumerate(zip(requests, formers, strict=True)):
        if former is None:
            continue
        value[row, policy.first :][own] = pad_actions(former, places)
        value[row, : policy.first][own] = former[0]
        if origins is not None:
            value[row][own] -= origins[row]
        if continuity != "none":
            mask[row, policy.first : policy.first + each.decided] = 1
    if manifest.units is not None:
        value = sampler.from_units(value)
    return Hold(value, mask)


def _check_former(actions: ArrayLike | None, places: int, shape: tuple[int, ...], decided: int) -> Float32 | None:
    """Return the previous sequence as an array; None if there is none, or it is empty. Raises UserError for a wrong
    shape or number."""
    fix = f"give [k, {', '.join(map(str, shape))}], at most {places} of them, from the tick of the window on"
    former = None if actions is None else as_finite(actions, "former actions", fix)
    if former is None or not former.size:
        if decided:
            what = f"{decided} actions are decided, but there is no previous sequence"
            raise UserError(what, "give former=[k, ...] too")
        return None
    if former.shape[1:] != shape or len(former) > places:
        raise UserError(f"former actions have the shape {list(former.shape)}", fix)
    count = as_integer(decided)
    if count is None or not 0 <= count <= len(former):
        raise UserError(f"{decided} of {len(former)} former actions are decided", f"give decided=0 to {len(former)}")
    return former
