"""Demonstrations of the experts of Fetch, as a data set of LeRobot: `python -m benchmarks.policy.fetch_demonstrations`.

Noise moves the gripper off the expert's way, and the data set has what the expert does there, so that a policy learns
to come back. An episode ends `--after` ticks after the object has stayed at its goal, since LeRobot trains on none of
the last ticks, 7 for a horizon of 16. Those that are not solved are left out.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import parser_of, positive
from benchmarks.policy.fetch import ACTIONS, LONGEST, RATE, TASKS, Fetch, expert_of, features_of

FIRST_SEED = 1_000_000  # of the demonstrations; evaluation has those from 0 on
NOISE = 0.25  # standard deviation of what is added to an action's three motions


Frame = dict[str, NDArray[np.float32] | NDArray[np.uint8]]  # what a policy observes at a tick, and the action


def demonstrate(simulation: Fetch, seed: int, after: int = 0) -> list[Frame] | None:
    """Return the observations and the expert's actions of an episode, or None if it is not solved. `after` is the
    number of its ticks after it is solved."""
    expert, generator = expert_of(simulation.task, seed), np.random.default_rng([seed, 2])
    observation, ticks = simulation.reset(seed), list[Frame]()
    numbers = [name for name, shape in features_of(simulation.task).items() if len(shape) == 1]
    end, is_solved = LONGEST, False
    while len(ticks) < end:
        action = expert(observation)
        frame: Frame = {name: observation[name].astype(np.float32) for name in numbers}
        ticks.append({**frame, **simulation.draw(), "action": action.astype(np.float32)})
        moved = action + np.append(generator.normal(0.0, NOISE, ACTIONS - 1), 0.0)
        observation, success = simulation.step(moved)
        if success:
            end, is_solved = min(end, len(ticks) + after), True
    return ticks if is_solved else None


def write(folder: Path, task: str, episodes: int, after: int) -> None:
    """Write a number of solved episodes of a task."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        name: {"dtype": "float32", "shape": shape, "names": None}
        if len(shape) == 1
        else {"dtype": "image", "shape": shape, "names": ["channels", "height", "width"]}
        for name, shape in {**features_of(task), "action": (ACTIONS,)}.items()
    }
    data = LeRobotDataset.create(f"fewstep/{task}", int(RATE), features, root=folder, use_videos=False)
    simulation, seed = Fetch(task), FIRST_SEED
    while data.num_episodes < episodes:
        ticks = demonstrate(simulation, seed, after)
        seed += 1
        for frame in ticks or ():
            data.add_frame({**frame, "task": task})
        if ticks:
            data.save_episode()
    data.finalize()
    print(f"{data.num_episodes} of {seed - FIRST_SEED} episodes are solved, with {data.num_frames} ticks")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--episodes", type=positive, default=600)
    parser.add_argument("--after", type=int, default=0, help="ticks of an episode after it is solved")
    given = parser.parse_args()
    write(given.folder, given.task, given.episodes, given.after)


if __name__ == "__main__":
    main()
