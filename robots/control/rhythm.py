"""The timing of a control loop: its ticks, and when it samples the next sequence of actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.robots.control.arguments import check_positive, check_seconds
from fewstep.runtime.kinds.policies import Control

PLANS = ("dpmpp_2m:4", "dpmpp_2m:2", "dpmpp_2m:1")


@dataclass(frozen=True)
class Rhythm:
    """The timing of a `PolicyRunner`.

    rate: ticks per second.
    plans: plans or their names, best first, or one name. The runner uses the first plan whose measured 99th percentile
        meets the deadline. A plan that fails is skipped for 200 sequences.
    deadline: seconds that a call of the sampler may take; None means one tick. A call that reaches the deadline ends
        after the current step, with the actions that the network predicts there.
    execute: number of actions of a sequence, counted from its observation, that are used before the next sequence takes
        over; None means the manifest's number. The call for the next sequence begins earlier by its delay, the ticks
        that it takes. If the delay exceeds half of `execute`, each call begins when the previous one ends.
    fade: ticks over which a sequence takes over from the previous one; 0 switches at once. At most the length of a
        sequence, counted from its observation. A fade is shorter if the previous sequence has fewer actions left.
    expected: seconds assumed for a call until one is measured (as in `warm_up`); None means the delay of a virtual
        clock, or 0.
    control: what actions are, "position" or "velocity"; None means the manifest's. Positions are executed one after
        another, so that a sequence waits while the robot does. Velocities belong to ticks: those of ticks that have
        passed are left out.
    """

    rate: float
    plans: Sequence[str | Plan] | str = PLANS
    deadline: float | None = None
    execute: int | None = None
    fade: int = 0
    expected: float | None = None
    control: Control | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", check_positive("rate", self.rate))
        if self.deadline is not None:
            object.__setattr__(self, "deadline", check_positive("deadline", self.deadline))
        if self.expected is not None:
            object.__setattr__(self, "expected", check_seconds("expected", self.expected))
        if self.control not in (None, *get_args(Control)):
            raise UserError(f"control is {self.control!r}", f"choose one of {', '.join(get_args(Control))}")
