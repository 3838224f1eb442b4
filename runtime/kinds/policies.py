"""Policies: denoisers whose samples are action sequences."""

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.companions import StateWords, TextEncoderEntry
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind, format_numbers


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

    def problem(self, of: DescriptionProtocol) -> str | None:
        shape, units = of.x_shape, of.units
        for field, least in (("observations", 1), ("actions", 1), ("first", 0)):
            if getattr(self, field) < least:
                return f"{field}={getattr(self, field)} is less than {least}"
        if not shape or self.first + self.actions > shape[0]:
            return f"actions {self.first} .. {self.first + self.actions - 1} of samples {list(shape)}"
        if units is not None and units.axis in (0, -len(shape)):
            return f"its units are along axis {units.axis} of samples {list(shape)}, the time axis of its actions"
        if self.width is not None and not (len(shape) == 2 and 1 <= self.width <= shape[1]):
            return f"width={self.width} of samples {list(shape)}"
        return self._continuation_problem(of) or self._discrete_problem(shape)

    def mistake(self, of: DescriptionProtocol) -> str | None:
        """Return a problem if no condition can contain the observations, else None.

        A condition of one axis may contain all of them in a row, and a single observation need not be stacked.
        """
        seen = [each for each in of.conditions if each.shape and each.name not in (self.prefix, self.delay)]
        count = self.observations
        if count == 1 or not seen or any(len(each.shape) == 1 or each.shape[:1] == (count,) for each in seen):
            return None
        shapes = ", ".join(f"{each.name!r} {list(each.shape)}" for each in seen)
        return f"no condition has {count} observations along its first axis: {shapes}"

    def describe(self, of: DescriptionProtocol) -> str:
        rhythm = (
            f"policy: sees {self.observations} observation{'s' * (self.observations != 1)}, executes {self.actions} of "
            f"{of.x_shape[0]} actions from place {self.first}, counted from 0"
        )
        if self.prefix is not None:
            rhythm += f"; continues up to {self.most_delay} decided actions ({self.prefix}, {self.delay})"
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
        shapes = {(each.name, each.shape) for each in of.conditions}
        missing = [need for need in ((self.prefix, of.x_shape), (self.delay, (1,))) if need not in shapes]
        return f"it needs a condition {missing[0][0]!r} of the shape {list(missing[0][1])}" if missing else None

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
