"""Episodes in the simulator, many in parallel, under a virtual clock: the same verdicts in every run.

All runners share a clock, so that their sequences are sampled as one batch. A sample does not depend on its batch,
and so an episode's verdict does not depend on the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.policy.simulator import draw_knock
from benchmarks.policy.verdicts import Contender, Episode, Verdict
from benchmarks.policy.worlds import Expert, Float64, Observation, Simulation, World
from fewstep.plans.shaping import Clip
from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock, ticks_between
from fewstep.runtime import Sampler

LOCKSTEP = 32  # episodes at a time
LIMITS = Clip(-1.0, 1.0)  # of actions
GREY = 127  # of the pictures of a blind policy


@dataclass
class Course:
    """The state of a running episode."""

    world: World
    episode: Episode
    simulation: Simulation
    observation: Observation
    runner: PolicyRunner | None
    expert: Expert | None
    knock: tuple[int, Float64]
    blind: bool = False
    seen: list[Observation] = field(default_factory=list)
    sent: list[Float64] = field(default_factory=list)

    def watch(self) -> None:
        """Run the first half of a tick: observe."""
        tick, shift = self.knock
        if len(self.seen) == tick:
            self.simulation.knock(shift)
        self.seen.append(self.observation)
        if self.runner is not None:
            numbers = {name: value.astype(np.float32) for name, value in self.observation.items()}
            pictures = self.simulation.draw()
            if self.blind:
                pictures = {name: np.full_like(picture, GREY) for name, picture in pictures.items()}
            self.runner.observe({**numbers, **pictures})

    def move(self) -> bool:
        """Run the second half of a tick: move, and return whether the task is solved."""
        if self.runner is None:
            assert self.expert is not None
            action = self.expert(self.observation)
        else:
            made = self.runner.action()
            if made.value is None:  # the robot stands still until its first sequence is there
                self.seen.pop()
                return False
            action = np.asarray(made.value, np.float64)
        self.sent.append(action)
        self.observation, solved = self.simulation.step(action)
        return solved

    def verdict(self, solved: bool) -> Verdict:
        task, seed = self.episode
        route = self.world.route(task, self.seen)
        seam = contrast = None
        if self.runner is not None:
            found = self.runner.statistics
            seam, contrast = (None if np.isnan(each) else each for each in (found.seam, found.jerk_contrast))
        ticks = len(self.seen) - 1 if solved else None
        return Verdict(task, seed, ticks, route, seam, contrast, worst_jerk=self.worst_jerk())

    def worst_jerk(self) -> float | None:
        """Return the largest norm of a second difference of the motions; None if there are fewer than three."""
        motions = np.array(self.sent)[:, : self.world.motions]
        return float(np.linalg.norm(np.diff(motions, 2, axis=0), axis=1).max()) if len(motions) > 2 else None


def run(
    world: World,
    contender: Contender,
    sampler: Sampler | None,
    episodes: Sequence[Episode],
    clock_of: Callable[[float], VirtualClock] = VirtualClock,
) -> Iterator[Verdict]:
    """Yield the verdict of each episode when it ends. A `sampler` of None runs the experts."""
    for course, solved in run_courses(world, contender, sampler, episodes, clock_of):
        yield course.verdict(solved)


def run_courses(
    world: World,
    contender: Contender,
    sampler: Sampler | None,
    episodes: Sequence[Episode],
    clock_of: Callable[[float], VirtualClock] = VirtualClock,
) -> Iterator[tuple[Course, bool]]:
    """Yield each episode when it ends, and whether it is solved."""
    clock = clock_of(contender.delay / world.rate)
    waiting, running = list(episodes), list[Course]()
    idle: dict[str, list[Simulation]] = {task: [] for task in world.tasks}
    tick = 0
    every = max(ticks_between(contender.execute, contender.delay), contender.delay)
    while waiting or running:
        if tick % every == 0:  # so that all ask for sequences at the same ticks
            while waiting and len(running) < LOCKSTEP:
                running.append(_begin(world, contender, sampler, waiting.pop(0), idle, clock))
        for course in running:
            course.watch()
        for course in list(running):
            solved = course.move()
            if solved or len(course.seen) == world.longest:
                yield course, solved
                idle[course.episode[0]].append(course.simulation)
                running.remove(course)
        clock.advance(1 / world.rate)
        tick += 1


def _begin(
    world: World,
    contender: Contender,
    sampler: Sampler | None,
    episode: Episode,
    idle: dict[str, list[Simulation]],
    clock: VirtualClock,
) -> Course:
    task, seed = episode
    simulation = idle[task].pop() if idle[task] else world.simulate(task)
    runner, expert = None, None
    if sampler is None:
        expert = world.expert(task, seed, contender.rescuers)
    else:
        runner = runner_of(world, contender, sampler, clock)
        runner.reset(seed, world.constants(task))
    knock = draw_knock(np.random.default_rng([seed, 2])) if contender.knocked else (-1, np.zeros(2))
    return Course(world, episode, simulation, simulation.reset(seed), runner, expert, knock, contender.blind)


def runner_of(world: World, contender: Contender, sampler: Sampler, clock: VirtualClock | None) -> PolicyRunner:
    assert contender.plan is not None
    rhythm = Rhythm(
        world.rate,
        (contender.plan,),
        deadline=1.0,  # of virtual time, which a delay is far from
        execute=contender.execute,
        fade=contender.fade,
        expected=contender.delay / world.rate,
    )
    shaping, continuity = LIMITS if contender.clipped else None, contender.continuity
    return PolicyRunner(sampler, rhythm, continuity=continuity, shaping=shaping, clock=clock)  # type: ignore[arg-type]


def episodes_of(count: int, tasks: Sequence[str], first: int = 0) -> list[Episode]:
    """Return a number of seeds of each task, the tasks in turn."""
    return [(task, seed) for seed in range(first, first + count) for task in tasks]
