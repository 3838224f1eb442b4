"""A robot that follows a path, and a policy that reads the robot's pose and returns the next points of the path.

The pose is one number, and is what the last action asked for. So whatever delays a sequence, its first executed action
is at most one step of the path away from the pose, unless the runner takes time that passed for motion.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

import fewstep.runtime
from fewstep.robots.control import Action, PolicyRunner, Rhythm, Safety, VirtualClock
from fewstep.robots.control.actions import Continuity
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.manifest import Condition, Policy
from tests.bundles import with_manifest_fields

RATE, TICK = 100.0, 0.01
LENGTH, EXECUTE, MOST_DELAY = 16, 6, 8
STEPS = np.random.default_rng(0).uniform(0.5, 1.5, 2000)
PATH = np.cumsum(STEPS)
LARGEST_STEP = float(STEPS.max())
Feeds = Mapping[str, NDArray[np.float32]]


def next_points(pose: float) -> NDArray[np.float64]:
    """Return the points of the path after a pose, [LENGTH, 1]."""
    after = int(np.searchsorted(PATH, pose + 1e-3))
    return PATH[after : after + LENGTH, None]


class PathNetwork:
    """A network that returns the next points of the path for each sample. If actions are decided, it continues them
    instead of the pose. An evaluation takes seconds of a clock, or fails."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.evaluations: Iterator[tuple[float, bool]] = iter(())

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        seconds, fails = next(self.evaluations, (0.0, False))
        self.clock.spend(seconds)
        sequences = np.empty((len(feeds["x"]), LENGTH, 1), np.float32)
        for row, state in enumerate(feeds["state"]):
            delay = int(feeds["delay"][row, 0])
            decided = feeds["prefix"][row, :delay]
            start = float(decided[-1, 0]) if delay else float(state[-1, 0])
            sequences[row] = np.concatenate([decided, next_points(start)])[:LENGTH]
        return {"v": np.full_like(sequences, np.nan) if fails else sequences}


def path_policy(bundle: Path, network: PathNetwork) -> Sampler:
    sampler = fewstep.runtime.load(bundle)
    x = sampler.body.graph.inputs[0]
    shapes = {"state": (1, 1), "prefix": (LENGTH, 1), "delay": (1,)}
    inputs = [
        msgspec.structs.replace(x, name=name, role="condition", shape=("batch", *shape))
        for name, shape in shapes.items()
    ]
    graph = msgspec.structs.replace(sampler.body.graph, inputs=(x, *inputs))
    body = msgspec.structs.replace(sampler.body, graphs=(graph,))
    sampler = sampler.with_network_parts(body=body, prologue=None, graph=network)
    conditions = tuple(Condition(name, name, shape, "float32", typical=(0.0, 1.0)) for name, shape in shapes.items())
    policy = Policy(1, 0, EXECUTE, prefix="prefix", delay="delay", most_delay=MOST_DELAY)
    own = {"conditions": conditions, "prologue": None, "prediction": "sample", "x_shape": (LENGTH, 1)}
    return with_manifest_fields(sampler, **own, policy=policy)


@dataclass(frozen=True)
class Timeline:
    """The random events of a run, and the settings of its runner."""

    seconds: NDArray[np.float64]  # of each evaluation of the network, in turn
    fails: NDArray[np.bool_]  # whether an evaluation returns NaN
    rejected: NDArray[np.bool_]  # whether the observation of a tick is unusable
    resets: NDArray[np.bool_]  # whether an episode begins before a tick
    continuity: Continuity
    plans: tuple[str, ...]
    deadline: float
    fade: int
    safety: Safety
    warm: bool


def draw_timeline(number: int, ticks: int = 100) -> Timeline:
    """Return a timeline: slow first calls, outliers, failures, blind spells, resets, stops, and any settings."""
    rng = np.random.default_rng([number, 81])
    usual = rng.choice([0.0, 0.3, 1.5, 3.0, 6.0])
    seconds = TICK * usual * rng.uniform(0.8, 1.2, 200)
    seconds = np.where(rng.random(200) < rng.choice([0.0, 0.05, 0.3]), TICK * rng.uniform(4, 30, 200), seconds)
    seconds[0] = TICK * rng.choice([0.0, 2.0, 9.0, 14.0, 40.0])
    begins, lasts = rng.random(ticks) < rng.choice([0.0, 0.02]), int(rng.integers(1, 40))
    rejected = np.convolve(begins, np.ones(lasts))[:ticks] > 0
    idle = None if rng.random() < 0.5 else [float(PATH[0])]
    most_held = (None, 0, 3)[rng.integers(3)]
    return Timeline(
        seconds=seconds,
        fails=rng.random(200) < rng.choice([0.0, 0.1]),
        rejected=rejected | (rng.random(ticks) < rng.choice([0.0, 0.1])),
        resets=rng.random(ticks) < rng.choice([0.0, 0.03]),
        continuity=("none", "hard", "trained")[rng.integers(3)],
        plans=(("ddim:1",), ("ddim:2", "ddim:1"))[rng.integers(2)],
        deadline=float(rng.choice([TICK, 4 * TICK, 10.0])),
        fade=int(rng.choice([0, 3])),
        safety=Safety(idle=idle, most_held=most_held),
        warm=bool(rng.random() < 0.3),
    )


@dataclass
class Run:
    """The ticks of a run: its actions, and the robot's pose before each."""

    actions: list[Action] = field(default_factory=list)
    poses: list[float] = field(default_factory=list)

    def largest_jump(self) -> float:
        """Return the largest change of the pose by an action of the policy. The change to the idle action is free."""
        jumps = [
            abs(float(action.value[0]) - pose)
            for action, pose in zip(self.actions, self.poses, strict=True)
            if action.value is not None and action.source not in ("waiting", "stopped")
        ]
        return max(jumps, default=0.0)


def follow(sampler: Sampler, network: PathNetwork, timeline: Timeline) -> Run:
    """Run a timeline. The robot begins at its idle action, or else at the first point of the path."""
    network.clock = VirtualClock()
    network.evaluations = zip(timeline.seconds.tolist(), timeline.fails.tolist(), strict=True)
    rhythm = Rhythm(RATE, timeline.plans, timeline.deadline, fade=timeline.fade)
    runner = PolicyRunner(sampler, rhythm, timeline.safety, continuity=timeline.continuity, clock=network.clock)
    run, pose = Run(), float(PATH[0])
    if timeline.warm and not timeline.fails.any():
        runner.warm_up({"state": [pose]})
    for rejected, reset in zip(timeline.rejected, timeline.resets, strict=True):
        if reset:
            runner.reset(1)
        action = runner.act({"state": [np.nan if rejected else pose]})
        network.clock.advance(TICK)
        run.actions.append(action)
        run.poses.append(pose)
        pose = pose if action.value is None else float(action.value[0])
    return run


def jumps(bundle: Path, numbers: Iterable[int]) -> dict[int, float]:
    """Return the largest change of the pose in each of these timelines that has one of more than a step."""
    network = PathNetwork()
    sampler = path_policy(bundle, network)
    largest = {number: follow(sampler, network, draw_timeline(number)).largest_jump() for number in numbers}
    return {number: jump for number, jump in largest.items() if jump > LARGEST_STEP + 1e-3}
