"""Demonstrations of the experts of Fetch, as a data set of LeRobot: `python -m benchmarks.policy.fetch_demonstrations`.

Noise moves the gripper off the expert's way, and the data set has what the expert does there, so that a policy learns
to come back. An episode ends once the object has stayed at its goal. Those that are not solved are left out.
"""

from pathlib import Path

import numpy as np

from benchmarks.options import parser_of, positive
from benchmarks.policy.fetch import ACTIONS, LONGEST, OBJECT, RATE, ROBOT, TASKS, Fetch, expert_of
from benchmarks.policy.worlds import Float64, Observation

FIRST_SEED = 1_000_000  # of the demonstrations; evaluation has those from 0 on
NOISE = 0.25  # standard deviation of what is added to an action's three motions


def demonstrate(simulation: Fetch, seed: int) -> list[tuple[Observation, Float64]] | None:
    """Return the observations and the expert's actions of an episode, or None if it is not solved."""
    expert, generator = expert_of(simulation.task, seed), np.random.default_rng([seed, 2])
    observation, ticks = simulation.reset(seed), list[tuple[Observation, Float64]]()
    while len(ticks) < LONGEST:
        action = expert(observation)
        ticks.append((observation, action))
        moved = action + np.append(generator.normal(0.0, NOISE, ACTIONS - 1), 0.0)
        observation, solved = simulation.step(moved)
        if solved:
            return ticks
    return None


def write(folder: Path, task: str, episodes: int) -> None:
    """Write a number of solved episodes of a task."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    sizes = {"observation.state": ROBOT, "observation.environment_state": OBJECT, "action": ACTIONS}
    features = {name: {"dtype": "float32", "shape": (size,), "names": None} for name, size in sizes.items()}
    data = LeRobotDataset.create(f"fewstep/{task}", int(RATE), features, root=folder, use_videos=False)
    simulation, seed = Fetch(task), FIRST_SEED
    while data.num_episodes < episodes:
        ticks = demonstrate(simulation, seed)
        seed += 1
        for observation, action in ticks or ():
            numbers = {name: value.astype(np.float32) for name, value in observation.items()}
            data.add_frame({**numbers, "action": action.astype(np.float32), "task": task})
        if ticks:
            data.save_episode()
    data.finalize()
    print(f"{data.num_episodes} of {seed - FIRST_SEED} episodes are solved, with {data.num_frames} ticks")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--episodes", type=positive, default=600)
    given = parser.parse_args()
    write(given.folder, given.task, given.episodes)


if __name__ == "__main__":
    main()
