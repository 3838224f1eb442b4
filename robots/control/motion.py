"""The motion of a robot in an episode: how many actions it has executed, and what its next action continues."""

from dataclasses import dataclass

from fewstep.robots.control.chunk import Float32


@dataclass
class Motion:
    """The actions that a robot has executed since an episode began.

    `progress` counts them, and says which action of a sequence is next: the one whose number is `progress` now minus
    `progress` at the sequence's observation. It stands still while the robot waits or holds its last action.

    every_tick: whether every tick counts as an executed action, so that sequences are tied to time.
    sent: the last action that was sent; the idle action at first. None if there is none.
    tick: the number of the present tick, from 0.
    executed_at: the tick of the last executed action; None before the first.
    pose: the pose that was measured since then; None without a measurement.
    """

    every_tick: bool
    sent: Float32 | None
    tick: int = -1
    progress: int = 0
    executed_at: int | None = None
    pose: Float32 | None = None

    def begin_tick(self) -> None:
        executed = self.executed_at == self.tick >= 0
        self.progress += executed or (self.every_tick and self.tick >= 0)
        self.pose = None if executed else self.pose
        self.tick += 1

    def execute(self) -> None:
        """Record that the robot executes an action of a sequence at this tick."""
        self.executed_at = self.tick

    @property
    def rest_ticks(self) -> int:
        """The ticks before this one since the last executed action, or since the episode began."""
        return self.tick if self.executed_at is None else max(self.tick - self.executed_at - 1, 0)

    def base(self, is_held: bool) -> Float32 | None:
        """Return the action or pose that the next action continues: after a rest the measured pose, otherwise the last
        action that was sent. None if neither is known.

        is_held: whether the next action repeats the last one. An arm may sag in the meantime, and the action must not
            follow it.
        """
        rests = self.executed_at is None or self.rest_ticks > 0
        return self.pose if rests and self.pose is not None and not is_held else self.sent
