"""Episodes in the simulator, many in parallel, under a virtual clock: the same verdicts in every run.

All runners share a clock, so that their sequences are sampled as one batch. A sample does not depend on its batch,
and so an episode's verdict does not depend on the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.experts import ROUTES, WALL, Expert, expert_of, rescuer_of, route_of
from benchmarks.policy.simulator import LONGEST, RATE, TASKS, Simulation, draw_knock
from benchmarks.policy.verdicts import Contender, Episode, Verdict
from fewstep.plans.shaping import Clip
from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock, ticks_between
from fewstep.runtime import Sampler

LOCKSTEP = 32  # episodes at a time
LIMITS = Clip(-1.0, 1.0)  # of actions


def one_hot(task: str) -> NDArray[np.float32]:
    """Return the one-hot condition of a task."""
    return np.eye(len(TASKS), dtype=np.float32)[TASKS.index(task)]


@dataclass
class Course:
    """The state of a running episode."""

    episode: Episode
    simulation: Simulation
    observation: NDArray[np.float64]
    runner: PolicyRunner | None
    expert: Expert | None
    knock: tuple[int, NDArray[np.float64]]
    seen: list[NDArray[np.float64]] = field(default_factory=list)

    def watch(self) -> None:
        """Run the first half of a tick: observe."""
        tick, shift = self.knock
        if len(self.seen) == tick:
            self.simulation.knock(shift)
        self.seen.append(self.observation)
        if self.runner is not None:
            self.runner.observe({"observation": self.observation.astype(np.float32)})

    def move(self) -> bool:
        """Run the second half of a tick: move, and return whether the task is solved."""
        action: NDArray[Any]
        if self.runner is None:
            assert self.expert is not None
            action = self.expert(self.observation)
        else:
            made = self.runner.action()
            if made.value is None:  # the robot stands still until its first sequence is there
                self.seen.pop()
                return False
            action = made.value
        self.observation, solved = self.simulation.step(action)
        return solved

    def verdict(self, solved: bool) -> Verdict:
        task, seed = self.episode
        route = route_of(np.array(self.seen)) if task == WALL else None
        seam = contrast = None
        if self.runner is not None:
            found = self.runner.statistics
            seam, contrast = (None if np.isnan(each) else each for each in (found.seam, found.jerk_contrast))
        return Verdict(task, seed, len(self.seen) - 1 if solved else None, route, seam, contrast)


def run(
    contender: Contender,
    sampler: Sampler | None,
    episodes: Sequence[Episode],
    clock_of: Callable[[float], VirtualClock] = VirtualClock,
) -> Iterator[Verdict]:
    """Yield the verdict of each episode when it ends. A `sampler` of None runs the experts."""
    for course, solved in run_courses(contender, sampler, episodes, clock_of):
        yield course.verdict(solved)


def run_courses(
    contender: Contender,
    sampler: Sampler | None,
    episodes: Sequence[Episode],
    clock_of: Callable[[float], VirtualClock] = VirtualClock,
) -> Iterator[tuple[Course, bool]]:
    """Yield each episode when it ends, and whether it is solved."""
    clock = clock_of(contender.delay / RATE)
    waiting, running = list(episodes), list[Course]()
    idle: dict[str, list[Simulation]] = {task: [] for task in TASKS}
    tick = 0
    every = max(ticks_between(contender.execute, contender.delay), contender.delay)
    while waiting or running:
        if tick % every == 0:  # so that all ask for sequences at the same ticks
            while waiting and len(running) < LOCKSTEP:
                running.append(_begin(contender, sampler, waiting.pop(0), idle, clock))
        for course in running:
            course.watch()
        for course in list(running):
            solved = course.move()
            if solved or len(course.seen) == LONGEST:
                yield course, solved
                idle[course.episode[0]].append(course.simulation)
                running.remove(course)
        clock.advance(1 / RATE)
        tick += 1


def _begin(
    contender: Contender,
    sampler: Sampler | None,
    episode: Episode,
    idle: dict[str, list[Simulation]],
    clock: VirtualClock,
) -> Course:
    task, seed = episode
    simulation = idle[task].pop() if idle[task] else Simulation(task)
    runner, expert = None, None
    if sampler is None:
        route = ROUTES[int(np.random.default_rng([seed, 3]).integers(len(ROUTES)))] if task == WALL else None
        expert = rescuer_of(task) if contender.rescuers and task != WALL else expert_of(task, route)
    else:
        runner = runner_of(contender, sampler, clock)
        runner.reset(seed, {"task": one_hot(task)})
    knock = draw_knock(np.random.default_rng([seed, 2])) if contender.knocked else (-1, np.zeros(2))
    return Course(episode, simulation, simulation.reset(seed), runner, expert, knock)


def runner_of(contender: Contender, sampler: Sampler, clock: VirtualClock | None) -> PolicyRunner:
    assert contender.plan is not None
    rhythm = Rhythm(
        RATE,
        (contender.plan,),
        deadline=1.0,  # of virtual time, which a delay is far from
        execute=contender.execute,
        fade=contender.fade,
        expected=contender.delay / RATE,
    )
    shaping, continuity = LIMITS if contender.clipped else None, contender.continuity
    return PolicyRunner(sampler, rhythm, continuity=continuity, shaping=shaping, clock=clock)  # type: ignore[arg-type]


def episodes_of(count: int, tasks: Sequence[str] = TASKS, first: int = 0) -> list[Episode]:
    """Return a number of seeds of each task, the tasks in turn."""
    return [(task, seed) for seed in range(first, first + count) for task in tasks]
