"""Write observations and actions of a LeRobot data set, for `fewstep calibrate` and `fewstep verify`.

    python docs/examples/lerobot_observations.py DATASET policy observations.npz
    fewstep calibrate policy --plan scheduler:10 --conditions observations.npz
    fewstep verify policy --data observations.npz

DATASET is the folder of a data set in LeRobot's format 3.0, and `policy` the bundle of a policy that was trained on it.
The file has an array [N, n_obs_steps, ...] for each observation, in the robot's units, and the actions as
x [N, horizon, actions] in model range. Besides fewstep it needs `pip install pyarrow pillow`. Cameras that the data set
stores as videos are decoded by LeRobot's own class:

    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # LeRobot 0.6 needs Python 3.12

    dataset = LeRobotDataset("ORG/NAME", root=DATASET)
    frames = read_frames(Path(DATASET), names, [dataset[i] for i in range(len(dataset))])
"""

import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime import Sampler, UserError, load

ACTION, EPISODE = "action", "episode_index"
MOST = 512  # rows of the file: more hardly change the ranges of activations

Frames = Mapping[str, NDArray[Any]]


def read_frames(dataset: Path, names: Sequence[str], decoded: Sequence[Mapping[str, Any]] = ()) -> Frames:
    """Return the features [frames, ...] of all frames in order. A picture is uint8 [3, H, W].

    decoded: the items of LeRobot's class, from which features are taken that the tables do not have.
    """
    try:
        import pyarrow.parquet  # only to read tables
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, which reads the tables", "pip install pyarrow") from None
    files = sorted((dataset / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(
            f"{dataset} has no tables data/chunk-*/file-*.parquet", "give a data set of LeRobot's format 3.0"
        )
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    frames = dict[str, NDArray[Any]]()
    for name in (*names, EPISODE):
        if name in table.column_names:
            frames[name] = np.stack([as_array(value) for value in table.column(name).to_pylist()])
        elif decoded:  # LeRobot's pictures are floats in [0, 1]
            frames[name] = np.stack([np.round(255 * np.asarray(item[name])).astype(np.uint8) for item in decoded])
        else:
            raise UserError(f"{dataset} has no {name} in its tables", "if it is a video, give LeRobot's items (above)")
    return frames


def as_array(value: Any) -> NDArray[Any]:
    """Return a number, a list of numbers, or a stored picture as an array."""
    if isinstance(value, dict):
        from PIL import Image  # only for pictures in tables

        return np.asarray(Image.open(BytesIO(value["bytes"])).convert("RGB")).transpose(2, 0, 1)
    return np.asarray(value, np.int64 if isinstance(value, int) else np.float32)


def make_records(frames: Frames, sampler: Sampler, most: int = MOST) -> dict[str, NDArray[Any]]:
    """Return observations and actions around `most` evenly spaced frames. At the ends of an episode the first
    observation and the last action are repeated, as in LeRobot's training."""
    manifest = sampler.bundle.manifest
    policy = manifest.policy
    if policy is None:
        raise UserError(f"{sampler.bundle.path} is no policy", "give the bundle of a policy")
    episodes = frames[EPISODE]
    chosen = np.unique(np.linspace(0, len(episodes) - 1, min(most, len(episodes))).round().astype(int))

    def window(name: str, offsets: NDArray[np.int64]) -> NDArray[Any]:
        places = chosen[:, None] + offsets
        first, last = (np.searchsorted(episodes, episodes[chosen], side)[:, None] for side in ("left", "right"))
        return frames[name][np.clip(places, first, last - 1)]

    past = np.arange(1 - policy.observations, 1)
    records = {each.name: window(each.name, past) for each in manifest.conditions if each.name in frames}
    actions = window(ACTION, np.arange(manifest.x_shape[0]) - policy.first)
    return {**records, "x": actions if manifest.units is None else sampler.from_units(actions)}


def main(dataset: str, policy: str, output: str) -> None:
    with load(policy) as sampler:
        names = [each.name for each in sampler.bundle.manifest.conditions]
        records = make_records(read_frames(Path(dataset), [*names, ACTION]), sampler)
    np.savez(output, **records)
    print(f"{output}: {len(records['x'])} rows of {', '.join(records)}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python docs/examples/lerobot_observations.py DATASET BUNDLE OUTPUT.npz")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"lerobot_observations: {error}")
