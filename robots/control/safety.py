"""The limits of the actions that a control loop sends, and the action that it sends while there is no sequence."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields

from numpy.typing import ArrayLike

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.robots.control.limits import Limits
from fewstep.robots.control.rhythm import Rhythm
from fewstep.robots.control.tick import Action


@dataclass(frozen=True)
class Safety:
    """The safety settings of a `PolicyRunner`.

    limits: limits of the actions; no limits by default. The change to the idle action is not limited.
    idle: the action, in the robot's units, that is sent while no sequence exists or the runner has stopped; None sends
        nothing.
    most_held: ticks for which the last action of a sequence is repeated before the runner stops; None never stops. Set
        a number for a robot that is controlled by velocities, since it keeps moving while an action is repeated. The
        runner resumes with the next sequence.
    stopped: a function that is called with the action of the tick at which the runner stops.
    pose: a function that returns the measured pose of the robot in an observation, in the shape and units of an action.
        After a wait, limits of change are relative to this pose. None means that the pose is not measured.
    """

    limits: Limits = field(default_factory=Limits)
    idle: ArrayLike | None = None
    most_held: int | None = None
    stopped: Callable[[Action], None] | None = None
    pose: Callable[[Mapping[str, ArrayLike]], ArrayLike | None] | None = None

    def __post_init__(self) -> None:
        if self.most_held is not None:
            check_integer("most_held", self.most_held, 0)
        if self.pose is not None and not callable(self.pose):
            raise UserError(f"pose is {self.pose!r}", 'give a function of the observation, lambda seen: seen["STATE"]')


NO_LIMITS = Safety()


def check_parts(rhythm: object, safety: object, former: Set[str]) -> None:
    """Raise UserError for arguments that are not a Rhythm or a Safety, and for arguments of earlier versions that are
    now fields of these."""
    parts = ((Rhythm, rhythm), (Safety, safety))
    for kind, _ in parts:
        if moved := former & {each.name for each in fields(kind)}:
            fix = f"{min(moved)} is now part of {kind.__name__}: PolicyRunner(sampler, Rhythm(...), Safety(...))"
            raise UserError(f"a runner no longer has the option {min(moved)!r}", fix)
    if former:
        raise UserError(
            f"a runner has no option {min(former)!r}", "give rhythm, safety, continuity, shaping, clock or text"
        )
    for kind, part in parts:
        if not isinstance(part, kind):
            fix = f"give a {kind.__name__}: PolicyRunner(sampler, Rhythm(rate=20.0), Safety())"
            raise UserError(f"the {kind.__name__.lower()} of a runner is {part!r}", fix)
