"""The sequence of actions that a robot executes, and where it is in that sequence."""

from collections.abc import Collection
from dataclasses import dataclass, field

from fewstep.robots.control.chunk import Chunk, Float32, crossfade
from fewstep.robots.control.motion import Motion
from fewstep.robots.control.tick import Source


@dataclass
class Course:
    """The current sequence of an episode.

    chunk: the sequence, whose origin is the progress of the motion at its observation; None before the first.
    observed: the tick of that observation.
    next_call: the tick at which the call for the next sequence begins.
    delay: the ticks that this call is expected to take.
    joins: values of `motion.progress` at which the actions of another sequence begin.
    """

    motion: Motion
    chunk: Chunk | None = None
    observed: int = 0
    next_call: int = 0
    delay: int = 0
    joins: list[int] = field(default_factory=list)

    @property
    def age(self) -> int:
        """The ticks since the observation of the sequence."""
        return 0 if self.chunk is None else self.motion.tick - self.observed

    @property
    def place(self) -> int:
        """The number of the next action in its sequence."""
        return 0 if self.chunk is None else self.motion.progress - self.chunk.origin

    def action(self) -> Float32:
        assert self.chunk is not None
        return self.chunk.action_at(self.motion.progress)

    def source(self, most_held: int | None) -> Source:
        """Return the source of this tick's action. It is "late" if the next sequence is missing at a tick by which a
        call that began in time and took no longer than expected would have finished.

        most_held: as in `Safety`.
        """
        if self.chunk is None:
            return "waiting"
        if self.motion.progress >= self.chunk.end:
            return "held" if most_held is None or self.motion.rest_ticks < most_held else "stopped"
        return "late" if self.motion.tick >= self.next_call + self.delay else "planned"

    def remaining(self, most_held: int | None) -> Float32 | None:
        """Return the actions [k, ...] that follow if no new sequence comes; None if the robot rests."""
        motion, chunk = self.motion, self.chunk
        if chunk is None or self.source(most_held) == "stopped":
            return None
        return chunk.actions_from(motion.progress) if motion.progress < chunk.end or motion.every_tick else None

    def take_over(
        self, chunk: Chunk, observed: int, period: int, shared: int, fade: int, discrete: Collection[int]
    ) -> None:
        """Replace the current sequence, and fade from its actions over `fade` of them, or those that remain.

        period: the ticks between the observations of this sequence and the next. The call for the next cannot begin
            before this tick.
        shared: the number of the first actions that both sequences have in common.
        """
        if self.chunk is not None:
            join = max(self.motion.progress, chunk.origin + shared)
            self.joins = [*(place for place in self.joins if self.motion.progress <= place < join), join]
            remaining = max(self.chunk.end - join, 0)  # a robot at rest has nothing to fade from
            count = fade if self.motion.every_tick else min(fade, remaining)
            chunk = crossfade(chunk, self.chunk, join, count, discrete)
        self.chunk, self.observed = chunk, observed
        self.next_call = max(observed + period, self.motion.tick)
