"""Policies: denoisers whose samples are action sequences."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.companions import StateWords, TextEncoderEntry
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind, format_numbers
from fewstep.runtime.kinds.units import Affine, to_units

Control = Literal["position", "velocity"]


class Policy(Kind, frozen=True, omit_defaults=True):
    """The observations and actions of a policy, whose sample is a sequence of actions.

    observations: how many of the last observations the policy receives, in order, the latest last.
    first: the index of the present action in the sequence.
    actions: how many actions are executed before the next sample.
    prefix, delay: conditions of a network that was trained to continue actions already decided (Black et al. 2025,
        arXiv 2512.05964). `prefix` is a sequence of x's shape in model range; its first `delay` actions are decided.
    most_delay: the largest `delay`.
    discrete: for elements of an action that take discrete values only, these values, in units.
    width: how many leading elements of each action in x are used. The others are padding, which is 0 in the training
        data. None means that all are used.
    relative_to, relative: an observation, and the elements of an action that the policy predicts relative to the same
        elements of its latest value, in units, such as joints relative to their measured positions.
    control: what actions are. A "position" says where the robot shall be, whenever it is executed. A "velocity" belongs
        to its tick, and is left out if the tick has passed.
    """

    FIX: ClassVar = "give Policy(observations, first, actions, discrete={PLACE: (VALUE, VALUE)})"
    EXPERTS: ClassVar = "without"

    observations: int
    first: int
    actions: int
    prefix: str | None = None
    delay: str | None = None
    most_delay: int = 0
    discrete: dict[int, tuple[float, ...]] = {}
    width: int | None = None
    relative_to: str | None = None
    relative: tuple[int, ...] = ()
    control: Control = "position"

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape, units = of.x_shape, of.units
        for field, least in (("observations", 1), ("actions", 1), ("first", 0)):
            if getattr(self, field) < least:
                return f"{field}={getattr(self, field)} is less than {least}"
        if not shape or self.first + self.actions > shape[0]:
            return f"actions {self.first} .. {self.first + self.actions - 1} of samples {list(shape)}"
        if units is not None and units.axis in (0, -len(shape)):
            return f"its units are along axis {units.axis} of samples {list(shape)}, the time axis of its actions"
        if self.control not in get_args(Control):
            return f"control={self.control!r} is not one of {', '.join(get_args(Control))}"
        if self.width is not None and not (len(shape) == 2 and 1 <= self.width <= shape[1]):
            return f"width={self.width} of samples {list(shape)}"
        return self._continuation_problem(of) or self._discrete_problem(shape) or self._relative_problem(shape)

    def mistake(self, of: DescriptionProtocol) -> str | None:
        """Return a problem if no condition can contain the observations, else None.

        A condition of one axis may contain all of them in a row, and a single observation need not be stacked.
        """
        seen = [
            condition
            for condition in of.conditions
            if condition.shape and condition.name not in (self.prefix, self.delay)
        ]
        count = self.observations
        if count == 1 or not seen or any(len(sensor.shape) == 1 or sensor.shape[:1] == (count,) for sensor in seen):
            return None
        shapes = ", ".join(f"{sensor.name!r} {list(sensor.shape)}" for sensor in seen)
        return f"no condition has {count} observations along its first axis: {shapes}"

    def describe(self, of: DescriptionProtocol) -> str:
        rhythm = (
            f"policy: sees {self.observations} observation{'s' * (self.observations != 1)}, executes {self.actions} of "
            f"{of.x_shape[0]} actions from place {self.first}, counted from 0"
        )
        if self.prefix is not None:
            rhythm += f"; continues up to {self.most_delay} decided actions ({self.prefix}, {self.delay})"
        if self.control == "velocity":
            rhythm += "; actions are velocities"
        if self.relative:
            elements = ", ".join(map(str, self.relative))
            rhythm += f"; elements {elements} of an action are relative to those of {self.relative_to}"
        return rhythm + "".join(
            f"; action[{at}] is one of {format_numbers(values)}" for at, values in self.discrete.items()
        )

    def snap_discrete(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round each discrete element of actions [..., elements], which are in the robot's units, to the nearest of its
        allowed values."""
        rounded = actions.copy() if self.discrete else actions
        for place, levels in self.discrete.items():
            values = np.asarray(levels, np.float32)
            rounded[..., place] = values[np.abs(rounded[..., place, None] - values).argmin(axis=-1)]
        return rounded

    def _continuation_problem(self, of: DescriptionProtocol) -> str | None:
        if self.prefix is None and self.delay is None:
            return None if self.most_delay == 0 else "it has a most_delay without prefix and delay"
        if self.prefix is None or self.delay is None:
            return "it has one of prefix and delay without the other"
        if self.first != 0:
            return f"its first is {self.first}, but with a prefix it must be 0"
        if not 1 <= self.most_delay <= (most := of.x_shape[0] - self.actions):
            return f"its most_delay is {self.most_delay}, not from 1 to {most} (its horizon less the actions executed)"
        shapes = {(condition.name, condition.shape) for condition in of.conditions}
        missing = [need for need in ((self.prefix, of.x_shape), (self.delay, (1,))) if need not in shapes]
        return f"it needs a condition {missing[0][0]!r} of the shape {list(missing[0][1])}" if missing else None

    def _relative_problem(self, shape: tuple[int, ...]) -> str | None:
        if (self.relative_to is None) == bool(self.relative):
            return "it has one of relative_to and relative without the other"
        if self.relative and len(shape) != 2:
            return f"relative actions are for samples [horizon, actions], not {list(shape)}"
        if self.relative and not set(self.relative) <= set(range(shape[1] if self.width is None else self.width)):
            return f"relative={list(self.relative)} of samples {list(shape)}"
        return None

    def _discrete_problem(self, shape: tuple[int, ...]) -> str | None:
        if self.discrete and len(shape) != 2:
            return f"discrete actions are for samples [horizon, actions], not {list(shape)}"
        for place, levels in self.discrete.items():
            if not 0 <= place < shape[1]:
                return f"discrete contains the index {place}, but actions have {shape[1]} elements"
            if len(levels) < 2 or not np.isfinite(levels).all() or sorted(set(levels)) != list(levels):
                return f"the discrete values of element {place} are {list(levels)}, not two or more in increasing order"
        return None


class PolicyFacts(Protocol):
    """The properties of a bundle from which it follows whether, and how, it acts as a robot policy."""

    @property
    def name(self) -> str: ...

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    @property
    def policy(self) -> Policy | None: ...

    @property
    def units(self) -> Affine | None: ...

    @property
    def text(self) -> TextEncoderEntry | None: ...


def policy_of(manifest: PolicyFacts) -> Policy:
    """Return a bundle's policy. Raises UserError if it has none."""
    if manifest.policy is None:
        raise UserError(
            f"bundle {manifest.name!r} does not say how many observations it takes",
            "export it with policy=Policy(observations, first, actions) in its spec",
        )
    return manifest.policy


def state_words(manifest: PolicyFacts) -> StateWords | None:
    """Return the observation that prompts contain as words, or None if they contain none."""
    form = None if manifest.text is None else manifest.text.form
    return None if form is None else form.state


def action_shape(manifest: PolicyFacts) -> tuple[int, ...]:
    """Return the shape of one action of a policy, without x's padding."""
    width = policy_of(manifest).width
    return manifest.x_shape[1:] if width is None else (width,)


def action_origin(manifest: PolicyFacts, window: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return what is added to each action [elements] that the network predicts from a window, in units: the latest
    value of the observation that actions are relative to, and 0 elsewhere."""
    policy = policy_of(manifest)
    origin, relative = np.zeros(action_shape(manifest), np.float32), list(policy.relative)
    if policy.relative_to is None:
        return origin
    if policy.relative_to not in window:
        what = f"the window has no {policy.relative_to!r}, which actions are relative to"
        raise UserError(what, "give the window of History.window()")
    values = np.asarray(window[policy.relative_to], np.float32)
    if values.ndim != 2:
        what = f"actions are relative to {policy.relative_to!r} of the shape {list(values.shape)}"
        raise UserError(what, "give an array [observations, elements], as in History.window()")
    latest = values[-1]
    if (last := max(relative)) >= latest.size:
        what = f"element {last} of an action is relative to {policy.relative_to!r}, which has {latest.size} elements"
        raise UserError(what, "export with Policy(relative=...) of its elements")
    origin[relative] = latest[relative]
    return origin


def actions_to_execute(manifest: PolicyFacts, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the actions [N, actions, ...] that a robot executes of sequences [N, *x_shape] in model range, without x's
    padding. They are in the robot's units, if the bundle states some. They are not rounded to discrete values, and the
    observation is not added to relative ones."""
    policy = policy_of(manifest)
    values = samples if manifest.units is None else to_units(manifest, samples)
    executed = np.asarray(values, np.float32)[:, policy.first : policy.first + policy.actions]
    return executed if policy.width is None else executed[..., : policy.width]
