"""The action of a runner at a tick."""

from dataclasses import dataclass
from typing import Literal

from fewstep.robots.control.chunk import Float32

Source = Literal["planned", "late", "held", "stopped", "waiting"]


@dataclass(frozen=True)
class Action:
    """The action at a tick.

    value: in units, a copy that the caller may change. It is None where nothing is to be sent: while `source` is
        "waiting" or "stopped" and the runner has no `idle` action, and where limits leave no action.
    source: "planned": the policy meant the action for this tick. "late": the next sequence is overdue, and the present
        one goes on. "held": the present sequence has ended, and its last action is repeated. "stopped": it was repeated
        `most_held` times. "waiting": no sequence exists yet.
    age: ticks since the observation that the action follows from.
    problem: why this tick's observation or the last sample was not used, or which limit changed the action; None where
        nothing is wrong.
    """

    value: Float32 | None
    source: Source
    age: int
    problem: str | None = None
