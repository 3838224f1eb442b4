"""Run a policy in a control loop: observations go in, actions in the robot's units come out.

    history = History(sampler)
    history.add({"observation.state": joints})                       # at every tick
    actions = sample_actions(sampler, plan, history.window(), seed)  # actions[0] is for the tick of that window

Sampling takes time, and a robot does not wait. While one sequence is executed the next is made in another thread, from
a window that does not change; `under_way` are the actions that will be executed meanwhile, and the new sequence
begins with them. It holds them by replacement: before each evaluation they are put back, noised to its time. The other
actions feel them through the network alone. Real-time chunking (Black et al. 2025, arXiv 2506.07339) is another method:
it moves all actions along a gradient of the denoiser, so that they continue those under way. fewstep has no gradients.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import Manifest, Policy
from fewstep.runtime.execute import Hold
from fewstep.runtime.sampler import Sampler

Window = Mapping[str, NDArray[Any]]
Float32 = NDArray[np.float32]


class History:
    """The last observations, as many as the policy looks at. The first one stands for those before it.

    It keeps the conditions [observations, ...]. Others, such as the number of a task, are not observed at each tick:
    whoever samples adds them to the window.
    """

    def __init__(self, sampler: Sampler) -> None:
        manifest = sampler.bundle.manifest
        count = policy_of(manifest).observations
        self._shapes = {each.name: each.shape[1:] for each in manifest.conditions if each.shape[:1] == (count,)}
        if not self._shapes:
            raise UserError(
                f"bundle {manifest.name!r} has no condition of {count} observations",
                f"let the shape of what is observed begin with {count}, or the policy's observations be as many",
            )
        self._latest: deque[dict[str, NDArray[Any]]] = deque(maxlen=count)

    def add(self, observation: Mapping[str, ArrayLike]) -> None:
        """What is seen now: for each condition of the policy one value, e.g. numbers [n] or a picture [3, H, W].

        What else a robot measures may be among it, and is left out.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, shape in self._shapes.items():
            if name not in observation:
                raise UserError(f"the observation has no {name!r}", f"give {', '.join(self._shapes)}")
            try:
                arrays[name] = np.array(observation[name])  # a copy: the caller may reuse its buffers
            except ValueError as error:
                raise UserError(f"observation {name!r} is no array ({error})", f"give {list(shape)}") from error
            if arrays[name].shape != shape:
                raise UserError(f"observation {name!r} has the shape {list(arrays[name].shape)}", f"give {list(shape)}")
        self._latest.append(arrays)

    def window(self) -> Window:
        """Arrays [observations, ...] by name, the latest last. They do not change when more is added."""
        if not self._latest:
            raise UserError("nothing has been observed", "add an observation first")
        missing = (self._latest.maxlen or 0) - len(self._latest)
        seen = [self._latest[0]] * missing + list(self._latest)
        return {name: np.stack([each[name] for each in seen]) for name in self._shapes}

    def clear(self) -> None:
        """Forget everything: at the start of an episode."""
        self._latest.clear()


def sample_actions(
    sampler: Sampler, plan: Plan | str, window: Window, seed: int = 0, under_way: ArrayLike | None = None
) -> Float32:
    """Actions [n, ...] in units, from the tick of the window on. The manifest's `policy.actions` of them are meant to
    be executed; the others are what the policy expects beyond.

    `under_way` [k, ...] are the first of them, in units, if they are decided already.
    """
    manifest = sampler.bundle.manifest
    policy = policy_of(manifest)
    hold = None if under_way is None else _held(sampler, policy, under_way)
    seen = {name: np.asarray(array)[None] for name, array in window.items()}
    (sequence,) = sampler.sample(plan, [seed], seen, hold=hold)
    return (sequence if manifest.units is None else sampler.to_units(sequence))[policy.first :]


def _held(sampler: Sampler, policy: Policy, under_way: ArrayLike) -> Hold | None:
    """The actions that are decided, at their places in the sequence; None where there are none."""
    manifest = sampler.bundle.manifest
    places = manifest.x_shape[0] - policy.first
    fix = f"give [k, {', '.join(map(str, manifest.x_shape[1:]))}], at most {places} of them"
    try:
        decided = np.asarray(under_way, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"actions under way are no array of numbers ({error})", fix) from error
    if not decided.size:
        return None
    if decided.shape[1:] != manifest.x_shape[1:] or len(decided) > places:
        raise UserError(f"actions under way have the shape {list(decided.shape)}", fix)
    value, mask = np.zeros(manifest.x_shape, np.float32), np.zeros(manifest.x_shape, np.float32)
    here = slice(policy.first, policy.first + len(decided))
    value[here], mask[here] = decided, 1.0
    return Hold(value if manifest.units is None else sampler.from_units(value), mask)


def ticks_of_delay(latencies: Sequence[float], rate: float) -> int:
    """How many actions at `rate` Hz go by until a sequence is there: the worst of recent `latencies`, in seconds."""
    return math.ceil(max(latencies, default=0.0) * rate)


def policy_of(manifest: Manifest) -> Policy:
    """The policy's rhythm. UserError where the bundle has none."""
    if manifest.policy is None:
        raise UserError(
            f"bundle {manifest.name!r} does not say how many observations it takes",
            "export it with policy=Policy(observations, first, actions) in its spec",
        )
    return manifest.policy
