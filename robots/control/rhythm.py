"""The rhythm of a control loop: its ticks, and the times at which it samples its next sequence of actions."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.robots.control.arguments import check_positive, check_seconds

PLANS = ("dpmpp_2m:4", "dpmpp_2m:2", "dpmpp_2m:1")


@dataclass(frozen=True)
class Rhythm:
    """The rhythm of a `PolicyRunner`.

    rate: ticks a second.
    plans: names of plans, best first, or one name. The runner takes the first plan whose measured 99th percentile keeps
        the deadline. A plan that fails is skipped for 200 sequences.
    deadline: seconds that a call of the sampler may take; None is one tick. A call that reaches it ends after the step
        that runs, with the actions that the network predicts there.
    execute: how many actions of a sequence are used, counted from its observation, before the next sequence takes over;
        None is the manifest's number. The call for the next sequence begins earlier by the ticks that it takes, its
        delay. If the delay is more than half of `execute`, each call begins when the last one ends.
    fade: ticks over which a sequence takes over from the former one; 0 is at once. At most the length of a sequence,
        counted from its observation.
    expected: seconds assumed for a call until one is measured; None is the delay of a virtual clock, else 0. `warm_up`
        measures.
    """

    rate: float
    plans: Sequence[str] | str = PLANS
    deadline: float | None = None
    execute: int | None = None
    fade: int = 0
    expected: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", check_positive("rate", self.rate))
        if self.deadline is not None:
            object.__setattr__(self, "deadline", check_positive("deadline", self.deadline))
        if self.expected is not None:
            object.__setattr__(self, "expected", check_seconds("expected", self.expected))
