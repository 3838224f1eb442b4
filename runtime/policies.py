"""The policy in a manifest, and its faults."""

from collections.abc import Sequence

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Affine, Condition, Manifest, Policy, StateWords


def policy_of(manifest: Manifest) -> Policy:
    """The policy's rhythm. UserError where the bundle has none."""
    if manifest.policy is None:
        raise UserError(
            f"bundle {manifest.name!r} does not say how many observations it takes",
            "export it with policy=Policy(observations, first, actions) in its spec",
        )
    return manifest.policy


def state_words(manifest: Manifest) -> StateWords | None:
    """The observation that prompts hold as words, or None."""
    form = None if manifest.text is None else manifest.text.form
    return None if form is None else form.state


def action_shape(manifest: Manifest) -> tuple[int, ...]:
    """The shape of one action of a policy, without x's padding."""
    width = policy_of(manifest).width
    return manifest.x_shape[1:] if width is None else (width,)


def policy_problem(
    policy: Policy, x_shape: tuple[int, ...], units: Affine | None = None, conditions: Sequence[Condition] = ()
) -> str | None:
    """The fault of a policy's rhythm for action sequences [horizon, ...] in such units, or None."""
    for field, least in (("observations", 1), ("actions", 1), ("first", 0)):
        if getattr(policy, field) < least:
            return f"{field}={getattr(policy, field)}, and at least {least} is needed"
    if not x_shape or policy.first + policy.actions > x_shape[0]:
        return f"actions {policy.first} .. {policy.first + policy.actions - 1} of samples {list(x_shape)}"
    if units is not None and units.axis in (0, -len(x_shape)):
        return f"its units lie along axis {units.axis} of samples {list(x_shape)}, its actions' axis of time"
    if policy.width is not None and not (len(x_shape) == 2 and 1 <= policy.width <= x_shape[1]):
        return f"width={policy.width} of samples {list(x_shape)}"
    return _continuation_problem(policy, x_shape, conditions) or _discrete_problem(policy, x_shape)


def _continuation_problem(policy: Policy, x_shape: tuple[int, ...], conditions: Sequence[Condition]) -> str | None:
    if policy.prefix is None and policy.delay is None:
        return None if policy.most_delay == 0 else "it has a most_delay without prefix and delay"
    if policy.prefix is None or policy.delay is None:
        return "prefix and delay go together"
    if policy.first != 0:
        return f"its first is {policy.first}, and with a prefix it is 0"
    if not 1 <= policy.most_delay <= (most := x_shape[0] - policy.actions):
        return f"its most_delay is {policy.most_delay}, and from 1 to {most}, its horizon less the actions executed"
    shapes = {(each.name, each.shape) for each in conditions}
    missing = [need for need in ((policy.prefix, x_shape), (policy.delay, (1,))) if need not in shapes]
    return f"it needs a condition {missing[0][0]!r} of the shape {list(missing[0][1])}" if missing else None


def _discrete_problem(policy: Policy, x_shape: tuple[int, ...]) -> str | None:
    if policy.discrete and len(x_shape) != 2:
        return f"discrete actions are for samples [horizon, actions], not {list(x_shape)}"
    for place, levels in policy.discrete.items():
        if not 0 <= place < x_shape[1]:
            return f"discrete place {place} of {x_shape[1]}"
        if len(levels) < 2 or not np.isfinite(levels).all() or sorted(set(levels)) != list(levels):
            return f"the values of place {place} are {list(levels)}, not two or more that increase"
    return None
