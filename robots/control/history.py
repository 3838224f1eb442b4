"""The last observations of a policy, as a window that later observations do not change."""

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import UnusableValue
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.kinds.policies import policy_of, state_words
from fewstep.runtime.sampling.sampler import Sampler

Window = Mapping[str, NDArray[Any]]


class History:
    """The last observations that the policy takes as input. The first observation is repeated for earlier ticks.

    A history stores the conditions with shape [observations, ...]. Other conditions, such as the number of a task, are
    not observed at each tick. The caller adds them to the window.
    """

    def __init__(self, sampler: Sampler) -> None:
        manifest = sampler.bundle.manifest
        policy = policy_of(manifest)
        count, decided = policy.observations, (policy.prefix, policy.delay)
        self._takes = {
            condition.name: msgspec.structs.replace(condition, shape=condition.shape[1:])
            for condition in manifest.conditions
            if condition.shape[:1] == (count,) and condition.name not in decided
        }
        if (words := state_words(manifest)) is not None:
            shape = (len(words.scale),)
            self._takes[words.observation] = Condition(words.observation, words.observation, shape, "float32")
        if not self._takes:
            raise UserError(
                f"bundle {manifest.name!r} has no condition of {count} observations",
                f"export observed conditions with shapes [{count}, ...], or change the policy's observations",
            )
        self._others = [
            condition for condition in manifest.conditions if condition.name not in {*self._takes, *decided}
        ]
        self._latest: deque[dict[str, NDArray[Any]]] = deque(maxlen=count)
        self.has_observed = False  # whether an observation was ever added, also before `clear`

    @property
    def tick_conditions(self) -> Mapping[str, Condition]:
        """The conditions of one observation, by name."""
        return self._takes

    @property
    def episode_conditions(self) -> Mapping[str, Condition]:
        """The conditions that are not observed at each tick, by name."""
        return {condition.name: condition for condition in self._others}

    def copy_conditions(self, values: Mapping[str, ArrayLike], encoded: Collection[str] = ()) -> Window:
        """Return copies of an episode's conditions, which are not observed at each tick.

        encoded: names of the conditions that the prompt provides.
        Raises UserError for an unknown condition, a missing condition without a default, or an invalid value.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"conditions {values!r} are not a mapping of names to values", "give {NAME: VALUE}")
        others = [port for port in self._others if port.name not in encoded]
        names = ", ".join(port.name for port in others)
        for name in values:
            if name in self._takes:
                raise UserError(f"condition {name!r} is observed at each tick", "leave it out of conditions")
            if name not in {port.name for port in others}:
                has = f"give {names}" if names else "leave it out: all conditions are observed at each tick"
                raise UserError(f"unknown condition {name!r}", has)
        for port in others:
            if port.name not in values and port.default is None:
                raise UserError(
                    f"condition {port.name!r} of the episode is missing",
                    f"give {names} in the argument conditions, to both reset and warm_up",
                )
        arrays = conditions.check(others, {name: [value] for name, value in values.items()}, 1)
        return {name: arrays[name][0].copy() for name in values}

    def add(self, observation: Mapping[str, ArrayLike]) -> None:
        """Add a copy of an observation: one value for each condition of the policy, e.g. numbers [n] or an image
        [3, H, W]. Other measurements are ignored.

        Raises UserError for a missing name, and for a wrong shape or type. Raises `UnusableValue` for values that are
        None, masked, out of range, or not finite in the condition's type.
        """
        fix = f"give {', '.join(self._takes)}"
        if observation is None:
            raise UnusableValue("the observation is None", fix)
        if not isinstance(observation, Mapping):
            raise UserError(f"the observation {observation!r} is not a mapping of names to values", fix)
        if missing := [name for name in self._takes if name not in observation]:
            if any(len(self._takes[name].shape) == 3 for name in missing):
                fix += "; docs/policies.md, A missing camera, names the policies that can do without it"
            raise UserError(f"the observation has no {', '.join(map(repr, missing))}", fix)
        arrays = conditions.check(tuple(self._takes.values()), {name: [observation[name]] for name in self._takes}, 1)
        self._latest.append({name: array[0] for name, array in arrays.items()})
        self.has_observed = True

    def window(self) -> Window:
        """Return arrays [observations, ...] by name, the latest last. A later `add` does not change them."""
        if not self._latest:
            raise UserError("nothing has been observed", "add an observation first")
        missing = (self._latest.maxlen or 0) - len(self._latest)
        seen = [self._latest[0]] * missing + list(self._latest)
        return {name: np.concatenate([observation[name][None] for observation in seen]) for name in self._takes}

    def clear(self) -> None:
        """Forget all observations, at the start of an episode."""
        self._latest.clear()
