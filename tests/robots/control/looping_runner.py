"""A runner of the tiny policy under a virtual clock, whose network is as slow as a test wants."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.robots.control import Action, PolicyRunner, Rhythm, Safety, VirtualClock
from tests.robots.control.tiny_policy import SEEN, ramp, tiny_policy

RATE = 100.0
TICK = 1 / RATE


class Slow:
    """A network that takes `seconds` of a virtual clock for each evaluation, and writes the number of the call to
    joint 1.
    """

    def __init__(self, clock: VirtualClock, seconds: float = 0.0) -> None:
        self.clock, self.seconds, self.calls, self.fails = clock, seconds, 0, False
        self.error: Exception | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.clock.spend(self.seconds)
        self.calls += 1
        if self.error is not None:
            raise self.error
        made = ramp(x).copy()
        made[..., 1] = np.nan if self.fails else self.calls / 1000
        return made


def looping(bundle: Path, seconds: float = 0.0, **options: object) -> tuple[PolicyRunner, Slow, VirtualClock]:
    clock = VirtualClock()
    network = Slow(clock, seconds)
    options = {"plans": ("ddim:4", "ddim:1"), "continuity": "hard"} | options
    rhythm, safety = (
        {field.name: options.pop(field.name) for field in fields(part) if field.name in options}
        for part in (Rhythm, Safety)
    )
    parts: Any = Rhythm(**{"rate": RATE, **rhythm}), Safety(**safety)
    others: Any = options
    return PolicyRunner(tiny_policy(bundle, network), *parts, clock=clock, **others), network, clock


def act(runner: PolicyRunner, clock: VirtualClock, observation: dict[str, list[float]] = SEEN) -> Action:
    action = runner.act(observation)
    clock.advance(TICK)
    return action


def acts(
    runner: PolicyRunner, clock: VirtualClock, count: int, observation: dict[str, list[float]] = SEEN
) -> list[Action]:
    """Return the actions of a number of ticks."""
    return [act(runner, clock, observation) for _ in range(count)]
