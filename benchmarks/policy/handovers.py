"""Hand-overs by code: `python benchmarks/policy/handovers.py FOLDER --weights training/policy.safetensors`.

A trained policy begins an episode, and the expert ends it from a tick that is drawn (DAgger: Ross et al. 2011, arXiv
1011.0686). The expert so shows the way out of states that it never gets into by itself. One is a sequence that goes on
for some ticks behind a knock, another a grasp that misses by a centimetre. What is stored is the expert's part of those
that it solves. Episodes that the policy solves before that tick are left out, so that its failures weigh more.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from demonstrations import HORIZON, NOISE, Episode, follow, packed, write
from experts import RELEARNT, Float64, rescuer_of
from rollouts import LOCKSTEP, one_hot, runner_of
from simulator import KNOCKED, LONGEST, RATE, TASKS, Simulation, draw_knock
from verdicts import Contender

from fewstep.export.export import ExportOptions, export
from fewstep.robots.control import PolicyRunner, VirtualClock
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

EPISODES = {"push": 400, "box-close": 400, "peg-insert-side": 160}  # kept of each task
ALONE = 0.4  # of the episodes of tasks RELEARNT: the expert begins them too
FIRST_SEED = 2_000_000  # of these episodes
KNOCKS = 0.6  # of the episodes in which a puck lies free
REACTION = 40  # ticks behind a knock in which the hand-over comes
EARLY, LATE, LATER = (0, 100), (100, 300), 0.3  # ticks of a hand-over, and the share of late ones
SOURCE = Path(__file__).with_name("network.py")
DRIVERS = [Contender("driver", "", "dpmpp_2m:2", execute=ticks) for ticks in (8, 4)]


@dataclass
class Course:
    """An episode while the policy drives. `handover` is the tick at which it ends."""

    simulation: Simulation
    observation: Float64
    runner: PolicyRunner
    knock: tuple[int, Float64]
    handover: int
    generator: np.random.Generator
    tick: int = field(default=0)
    solved: bool = field(default=False)

    def watch(self) -> None:
        """The first half of a tick."""
        if self.tick == self.knock[0]:
            self.simulation.knock(self.knock[1])
        self.runner.observe({"observation": self.observation.astype(np.float32)})

    def move(self) -> None:
        """The second half."""
        action = self.runner.action().value
        assert action is not None
        self.observation, self.solved = self.simulation.step(action)
        self.tick += 1

    def finish(self) -> Episode | None:
        """The expert's part; None where there is nothing to learn from."""
        if self.solved:
            return None
        noise = NOISE if self.generator.random() < 0.5 else 0.0
        knock = (self.knock[0] - self.tick, self.knock[1])  # it may be still to come
        expert, ticks = rescuer_of(self.simulation.task), LONGEST - self.tick
        episode = follow(self.simulation, expert, self.observation, self.generator, noise, knock, ticks)
        return None if episode.solved is None or len(episode.seen) < HORIZON else episode


def begin(simulation: Simulation, sampler: Sampler, clock: VirtualClock, seed: int) -> Course:
    """An episode; all that is drawn follows from its seed."""
    generator = np.random.default_rng([seed, 4])
    knock = (-1, np.zeros(2))
    first, end = LATE if generator.random() < LATER else EARLY
    if simulation.task in KNOCKED and generator.random() < KNOCKS:
        knock = draw_knock(generator)
        if first < knock[0]:
            first, end = knock[0] + 1, knock[0] + REACTION
    runner = runner_of(DRIVERS[int(generator.integers(len(DRIVERS)))], sampler, clock)
    runner.reset(seed, {"task": one_hot(simulation.task)})
    handover = int(generator.integers(first, end))
    if simulation.task in RELEARNT and generator.random() < ALONE:
        handover = 0
    return Course(simulation, simulation.reset(seed), runner, knock, handover, generator)


def together(simulations: list[Simulation], sampler: Sampler, seed: int) -> list[Episode]:
    """Episodes from a seed on, one in each simulation, driven in lockstep."""
    clock = VirtualClock()
    courses = [begin(simulation, sampler, clock, seed + place) for place, simulation in enumerate(simulations)]
    while running := [each for each in courses if not each.solved and each.tick < each.handover]:
        for course in running:
            course.watch()
        for course in running:
            course.move()
        clock.advance(1 / RATE)
    return [episode for course in courses if (episode := course.finish()) is not None]


def record(bundle: Path, task: str) -> tuple[list[Episode], int]:
    """The episodes of a task that are kept, and how many were tried."""
    simulations, found, seed = [Simulation(task) for _ in range(LOCKSTEP)], list[Episode](), FIRST_SEED
    with load(bundle, backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        while len(found) < EPISODES[task]:
            found += together(simulations, sampler, seed)
            seed += LOCKSTEP
            print(f"{task}: {len(found)} kept of {seed - FIRST_SEED}", flush=True)
    return found, seed - FIRST_SEED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="of the policy that drives")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    os.environ["POLICY_WEIGHTS"] = str(given.weights)
    kept, tasks, tried = list[Episode](), list[int](), dict[str, list[int]]()
    with TemporaryDirectory() as folder, ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        bundle = Path(folder) / "policy"
        export(ExportOptions(f"{SOURCE}:make", bundle))
        for task, (found, count) in zip(EPISODES, pool.map(partial(record, bundle), EPISODES), strict=True):
            kept += found
            tasks += [TASKS.index(task)] * len(found)
            tried[task] = [count, len(found)]
    write(given.folder, *packed(kept, tasks, tried))


if __name__ == "__main__":
    main()
