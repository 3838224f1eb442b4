"""The last observations of a policy, as a window that does not change when more is seen."""

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime import conditions
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.policies import policy_of, state_words
from fewstep.runtime.sampler import Sampler

Window = Mapping[str, NDArray[Any]]
KINDS = {"f": "iuf", "b": "b"}  # of a condition's dtype: the kinds of values it takes; others take whole numbers


class Unusable(UserError):
    """An observation of the right form without usable values, from a sensor that dropped out. This may happen at any
    tick."""


class History:
    """The last observations, as many as the policy looks at. The first observation stands for earlier ones.

    A history keeps the conditions [observations, ...]. Other conditions, such as the number of a task, are not observed
    at each tick: the caller adds them to the window.
    """

    def __init__(self, sampler: Sampler) -> None:
        manifest = sampler.bundle.manifest
        policy = policy_of(manifest)
        count, decided = policy.observations, (policy.prefix, policy.delay)
        self._takes = {
            each.name: msgspec.structs.replace(each, shape=each.shape[1:])
            for each in manifest.conditions
            if each.shape[:1] == (count,) and each.name not in decided
        }
        if (words := state_words(manifest)) is not None:
            shape = (len(words.scale),)
            self._takes[words.observation] = Condition(words.observation, words.observation, shape, "float32")
        if not self._takes:
            raise UserError(
                f"bundle {manifest.name!r} has no condition of {count} observations",
                f"let the shape of what is observed begin with {count}, or the policy's observations be as many",
            )
        self._others = [each for each in manifest.conditions if each.name not in {*self._takes, *decided}]
        self._latest: deque[dict[str, NDArray[Any]]] = deque(maxlen=count)

    def fixed(self, values: Mapping[str, ArrayLike], encoded: Collection[str] = ()) -> Window:
        """Copies of an episode's conditions, which are not observed at each tick. UserError for an unknown condition, a
        missing one without a default, or a value that the condition does not take. A prompt gives those `encoded`."""
        if not isinstance(values, Mapping):
            raise UserError(f"conditions {values!r} are no mapping of names to values", "give {NAME: VALUE}")
        others = [each for each in self._others if each.name not in encoded]
        names = ", ".join(each.name for each in others)
        for name in values:
            if name in self._takes:
                raise UserError(f"condition {name!r} is observed at each tick", "leave it out of conditions")
            if name not in {each.name for each in others}:
                has = f"an episode has {names}" if names else "leave it out: all conditions are observed at each tick"
                raise UserError(f"unknown condition {name!r}", has)
        for each in others:
            if each.name not in values and each.default is None:
                raise UserError(
                    f"condition {each.name!r} of the episode is missing", f"reset(conditions=) takes {names}"
                )
        arrays = conditions.check(others, {name: [value] for name, value in values.items()}, 1)
        return {name: arrays[name][0].copy() for name in values}

    def add(self, observation: Mapping[str, ArrayLike]) -> None:
        """Add an observation: one value for each condition of the policy, e.g. numbers [n] or a picture [3, H, W].

        Other measurements of a robot are left out. UserError for a missing value, and for another shape or kind of
        values. `Unusable` for values that are None, masked, not finite in the condition's type, or out of range.
        """
        fix = f"give {', '.join(self._takes)}"
        if observation is None:
            raise Unusable("the observation is None", fix)
        if not isinstance(observation, Mapping):
            raise UserError(f"the observation {observation!r} is no mapping of names to values", fix)
        for name in self._takes:
            if name not in observation:
                raise UserError(f"the observation has no {name!r}", fix)
        self._latest.append({name: _array(condition, observation[name]) for name, condition in self._takes.items()})

    def window(self) -> Window:
        """Arrays [observations, ...] by name, the latest last. A later `add` does not change them."""
        if not self._latest:
            raise UserError("nothing has been observed", "add an observation first")
        missing = (self._latest.maxlen or 0) - len(self._latest)
        seen = [self._latest[0]] * missing + list(self._latest)
        return {name: np.concatenate([each[name][None] for each in seen]) for name in self._takes}

    def clear(self) -> None:
        """Forget all observations, at the start of an episode."""
        self._latest.clear()


def _array(condition: Condition, value: ArrayLike) -> NDArray[Any]:
    """A copy of the value of one tick: the caller may reuse its buffers."""
    subject = f"observation {condition.name!r}"
    fix = f"give {condition.dtype} values {list(condition.shape)}"
    if value is None:
        raise Unusable(f"{subject} is None", fix)
    if np.ma.is_masked(value):
        raise Unusable(f"{subject} holds masked values", fix)
    try:
        array = np.array(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of a torch tensor that requires grad
        raise UserError(f"{subject} is no array ({error})", fix) from error
    if array.shape != condition.shape:
        raise UserError(f"{subject} has the shape {list(array.shape)}", fix)
    if array.dtype == object and any(each is None for each in array.flat):
        raise Unusable(f"{subject} holds None", fix)
    dtype = np.dtype(condition.dtype)
    if array.dtype.kind not in KINDS.get(dtype.kind, "iu"):
        raise UserError(f"{subject} holds values of type {array.dtype}", fix)
    if dtype.kind == "f":
        with np.errstate(all="ignore"):  # numbers beyond the type are refused below
            array = array.astype(dtype, copy=False)
    least, most = array.min(), array.max()  # NaN if there is one
    if not (np.isfinite(least) and np.isfinite(most)):
        raise Unusable(f"{subject} holds a number that is not finite in {dtype}", fix)
    low, high = _bounds(condition)
    if least < low or most > high:
        raise Unusable(f"{subject} holds {least if least < low else most}, which is not from {low:g} to {high:g}", fix)
    return array.astype(dtype, copy=False)


def _bounds(condition: Condition) -> tuple[float, float]:
    """The least and greatest value that the sampler takes: by the condition, and by a type of whole numbers."""
    low, high = [-math.inf], [math.inf]
    if np.issubdtype(condition.dtype, np.integer):
        low.append(np.iinfo(condition.dtype).min)
        high.append(np.iinfo(condition.dtype).max)
    if condition.null is None:  # the null value may lie outside
        low += [] if condition.low is None else [condition.low]
        high += [] if condition.high is None else [condition.high]
    return max(low), min(high)
