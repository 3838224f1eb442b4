"""Demonstrations by code: `python benchmarks/policy/demonstrations.py FOLDER`, minutes on one core.

Half of the episodes are executed with noise on the actions; what is stored is the expert's own action at each tick
(DART: Laskey et al. 2017, arXiv 1703.09327). Some have a knock of the puck. Only successes are kept, and past the wall
only those that took the route that they were meant to. An episode goes on for a horizon after it succeeded, so that
each tick up to there has a whole sequence of actions ahead.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experts import ROUTES, WALL, Expert, Float64, expert_of, route_of
from numpy.typing import NDArray
from simulator import KNOCKED, LONGEST, TASKS, Simulation, draw_knock

HORIZON = 32  # ticks that are recorded after success
EPISODES = 400  # of each task, and of each route past the wall
NOISE = 0.3  # deviation of the noise on x, y and z
KNOCKS = 0.3  # of the episodes in which a puck lies free
FIRST_SEED = 1_000_000  # of the demonstrations; seeds below are for evaluation
FILE, CARD = "demonstrations.npz", "demonstrations.json"


@dataclass(frozen=True)
class Episode:
    """What was seen [ticks, 39] and what the expert would do [ticks, 4]; `solved` is the tick of success, None if
    there was none. Seen and done go on for HORIZON ticks after it."""

    seen: NDArray[np.float32]
    done: NDArray[np.float32]
    solved: int | None


def run_expert(task: Simulation, seed: int, route: str | None, noise: float, knocked: bool) -> Episode:
    """One episode of the expert."""
    generator = np.random.default_rng(seed)
    knock = draw_knock(generator) if knocked else (-1, np.zeros(2))
    return follow(task, expert_of(task.task, route), task.reset(seed), generator, noise, knock)


def follow(
    task: Simulation,
    expert: Expert,
    observation: Float64,
    generator: np.random.Generator,
    noise: float,
    knock: tuple[int, Float64],
    ticks: int = LONGEST,
) -> Episode:
    """The expert from an observation on, for so many ticks at most. The tick of the knock is counted from there."""
    solved = None
    seen, done = [], []
    for tick in range(ticks):
        if tick == knock[0]:
            task.knock(knock[1])
        action = expert(observation)
        seen.append(observation)
        done.append(action)
        executed = action.copy()
        executed[:3] += noise * generator.standard_normal(3)
        observation, success = task.step(executed)
        if success and solved is None:
            solved = tick
        if solved is not None and tick == solved + HORIZON:
            break
    return Episode(np.asarray(seen, np.float32), np.asarray(done, np.float32), solved)


def variants() -> list[tuple[str, str | None]]:
    """(task, route) of the demonstrations."""
    return [(WALL, route) for route in ROUTES] + [(task, None) for task in TASKS if task != WALL]


def is_wanted(episode: Episode, route: str | None) -> bool:
    if episode.solved is None or len(episode.seen) < HORIZON:
        return False
    return route is None or route_of(episode.seen) == route


def record(episodes: int) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
    """All demonstrations as arrays, and their card. `starts` are the first ticks of the episodes, `usable` the ticks of
    each that are not behind its success and have HORIZON actions ahead."""
    kept: list[Episode] = []
    tasks: list[int] = []
    tried: dict[str, list[int]] = {}
    for task_name, route in variants():
        task, seed, count = Simulation(task_name), FIRST_SEED, [0, 0]
        while count[1] < episodes:
            draw = np.random.default_rng([seed, 1])
            noise = NOISE if draw.random() < 0.5 else 0.0
            knocked = task_name in KNOCKED and draw.random() < KNOCKS
            episode = run_expert(task, seed, route, noise, knocked)
            wanted = is_wanted(episode, route)
            count = [count[0] + 1, count[1] + wanted]
            seed += 1
            if wanted:
                kept.append(episode)
                tasks.append(TASKS.index(task_name))
        name = task_name if route is None else f"{task_name} {route}"
        tried[name] = count
        print(f"{name}: {count[1]} kept of {count[0]}", flush=True)
    return packed(kept, tasks, tried)


def packed(
    kept: Sequence[Episode], tasks: Sequence[int], tried: Mapping[str, Sequence[int]]
) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
    """Episodes as arrays, and their card. `tried` has the episodes that were tried and kept, by name."""
    lengths = np.array([len(each.seen) for each in kept])
    arrays: dict[str, NDArray[np.generic]] = {
        "seen": np.concatenate([each.seen for each in kept]),
        "done": np.concatenate([each.done for each in kept]),
        "starts": np.cumsum(lengths) - lengths,
        "usable": np.array([min((each.solved or 0) + 1, len(each.seen) - HORIZON + 1) for each in kept]),
        "tasks": np.array(tasks),
    }
    card: dict[str, object] = {
        "episodes": tried,
        "ticks": int(lengths.sum()),
        "sha256": digest(arrays),
        "low": arrays["seen"].min(axis=0).tolist(),
        "high": arrays["seen"].max(axis=0).tolist(),
    }
    return arrays, card


def digest(arrays: dict[str, NDArray[np.generic]]) -> str:
    """One hash of all arrays, whatever file they are in."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each task, and of each route past the wall")
    given = parser.parse_args()
    arrays, card = record(given.episodes)
    write(given.folder, arrays, card)


def write(folder: Path, arrays: dict[str, NDArray[np.generic]], card: dict[str, object]) -> None:
    """Put episodes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"partial-{FILE}"
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    os.replace(partial, folder / FILE)
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
    print(f"{card['ticks']} ticks, sha256 {card['sha256']}")


if __name__ == "__main__":
    main()
