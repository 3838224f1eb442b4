"""A row of pictures of an episode: `python benchmarks/policy/strip.py OUT.png --task push --seed 0 [--bundle DIR]`.

Without a bundle an expert acts. Pictures need MuJoCo's renderer: MUJOCO_GL=egl where there is no screen.
"""

import argparse
from pathlib import Path

import numpy as np
from experts import ROUTES, WALL, expert_of
from PIL import Image
from simulator import LONGEST, RATE, TASKS, Simulation
from verdicts import Contender

from fewstep.control import VirtualClock
from fewstep.runtime import load
from rollouts import one_hot, runner_of

PICTURES, SIZE = 8, 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=TASKS, default=WALL)
    parser.add_argument("--route", choices=ROUTES, default="over", help="of the expert past the wall")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--precision", default="int8")
    given = parser.parse_args()
    task = Simulation(given.task, pictures=SIZE)
    expert = expert_of(given.task, given.route if given.task == WALL else None)
    observation, frames, clock = task.reset(given.seed), [task.picture()], VirtualClock()
    runner = None
    if given.bundle is not None:
        contender = Contender("shown", plan="dpmpp_2m:2", warm=0.5)
        runner = runner_of(contender, load(given.bundle, precision=given.precision), clock)
        runner.reset(given.seed, {"task": one_hot(given.task)})
    solved = False
    while not solved and len(frames) < LONGEST:
        action = expert(observation)
        if runner is not None:
            made = runner.act({"observation": observation.astype(np.float32)}).value
            assert made is not None
            action = made
        observation, solved = task.step(action)
        frames.append(task.picture())
        clock.advance(1 / RATE)
    places = np.linspace(0, len(frames) - 1, PICTURES).round().astype(int)
    Image.fromarray(np.concatenate([frames[place] for place in places], axis=1)).save(given.out)
    print(f"{given.task}: {'solved' if solved else 'not solved'} after {len(frames) - 1} ticks")


if __name__ == "__main__":
    main()
