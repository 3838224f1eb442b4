"""Limits of what a control loop sends, and the action that it sends where no sequence of actions is there."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field, fields

from numpy.typing import ArrayLike

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.robots.control.limits import Limits
from fewstep.robots.control.rhythm import Rhythm
from fewstep.robots.control.tick import Action


@dataclass(frozen=True)
class Safety:
    """The safety of a `PolicyRunner`.

    limits: limits of the actions; the default is none. An idle action may change at once.
    idle: the action in units that is sent while no sequence exists or the runner has stopped; None sends nothing.
    most_held: ticks for which the last action of a sequence is repeated before the runner stops; None never stops. A
        robot that is driven by velocities needs a number: it moves on while an action is repeated. The runner goes on
        by itself with the next sequence.
    stopped: called at the tick at which the runner stops, with that tick's action.
    """

    limits: Limits = field(default_factory=Limits)
    idle: ArrayLike | None = None
    most_held: int | None = None
    stopped: Callable[[Action], None] | None = None

    def __post_init__(self) -> None:
        if self.most_held is not None:
            check_integer("most_held", self.most_held, 0)


NO_LIMITS = Safety()


def check_parts(rhythm: object, safety: object, former: Set[str]) -> None:
    """UserError for what is no rhythm or safety, and for options that have moved into them."""
    parts = ((Rhythm, rhythm), (Safety, safety))
    for kind, _ in parts:
        if moved := former & {each.name for each in fields(kind)}:
            fix = f"PolicyRunner(sampler, Rhythm(...), Safety(...)): {min(moved)} is of {kind.__name__}"
            raise UserError(f"a runner has no option {min(moved)!r} any more", fix)
    if former:
        raise UserError(f"a runner has no option {min(former)!r}", "it has rhythm, safety, continuity, shaping, clock")
    for kind, part in parts:
        if not isinstance(part, kind):
            fix = f"PolicyRunner(sampler, Rhythm(rate=20.0), Safety()): {part!r} is no {kind.__name__}"
            raise UserError(f"a runner's {kind.__name__.lower()} is {part!r}", fix)
