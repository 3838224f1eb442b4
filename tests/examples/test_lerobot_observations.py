"""Windows of a small data set in LeRobot's format 3.0, which this test writes."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.measure.rollouts.conditions_file import read_conditions
from fewstep.measure.spec.spec_samples import read_samples
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Affine
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.clients.bundles import CAMERA, HORIZON, write
from tests.examples.conftest import Example

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
LENGTHS = (5, 12)  # frames of two episodes


def write_data(folder: Path, kind: str) -> Path:
    """Frame f of all frames has the state [f, f, ...], the action [f, -f], and a picture of shade f."""
    frames = np.arange(sum(LENGTHS))
    columns: dict[str, Any] = {
        "observation.state": [[float(frame)] * (2 if kind == "pusht" else 3) for frame in frames],
        "action": [[float(frame), -float(frame)] for frame in frames],
        "episode_index": [episode for episode, length in enumerate(LENGTHS) for _ in range(length)],
    }
    if kind == "pusht":
        columns["observation.environment_state"] = [[float(frame)] * 16 for frame in frames]
    if kind == "arm":
        columns["observation.images.cam0"] = [{"bytes": shade(frame), "path": None} for frame in frames.tolist()]
    (folder / "data/chunk-000").mkdir(parents=True)
    for number, part in enumerate((slice(7), slice(7, None))):  # a file may end within an episode
        table = pyarrow.table({name: values[part] for name, values in columns.items()})
        parquet.write_table(table, folder / f"data/chunk-000/file-{number:03d}.parquet")
    return folder


def shade(level: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (CAMERA[2], CAMERA[1]), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["pusht", "arm"])
def test_windows_repeat_the_ends_of_their_episode(kind: str, tmp_path: Path, example: Example) -> None:
    data, policy, output = write_data(tmp_path / "data", kind), write(kind, tmp_path / "policy"), tmp_path / "o.npz"
    change_bundle(policy, units=Affine((2.0, 4.0), (1.0, 0.0)))
    example("lerobot_observations.py", data, policy, output)
    with np.load(output) as file:
        states, x = file["observation.state"][..., 0], file["x"]
    past = 1 if kind == "pusht" else 0  # observations before the present one; the sequence begins as early
    with load(policy) as sampler:
        actions = sampler.to_units(x)
    for frame, first, last in ((0, 0, 4), (4, 0, 4), (5, 5, 16), (9, 5, 16)):
        seen = np.clip(np.arange(frame - past, frame + 1), first, last)
        assert states[frame].tolist() == seen.tolist()
        done = np.clip(np.arange(HORIZON) + frame - past, first, last)
        assert actions[frame, :, 0] == pytest.approx(done) and actions[frame, :, 1] == pytest.approx(-done)


@pytest.mark.parametrize("kind", ["pusht", "arm"])
def test_calibration_and_verification_take_the_file(kind: str, tmp_path: Path, example: Example) -> None:
    data, policy, output = write_data(tmp_path / "data", kind), write(kind, tmp_path / "policy"), tmp_path / "o.npz"
    example("lerobot_observations.py", data, policy, output)
    manifest = open_bundle(policy).manifest
    assert len(read_samples(output, manifest).x) == sum(LENGTHS)
    records = read_conditions(output, manifest)
    assert records.keys() == {condition.name for condition in manifest.conditions}
    if kind == "arm":
        assert records["observation.images.cam0"][7, 0].max() == records["observation.images.cam0"][7, 0].min() == 7


def test_a_video_is_named_and_taken_from_lerobots_class(tmp_path: Path, example: Example) -> None:
    data, policy = write_data(tmp_path / "data", "pusht"), write("arm", tmp_path / "policy")
    with pytest.raises(SystemExit, match="no observation.images.cam0 in its tables; if it is a video"):
        example("lerobot_observations.py", data, policy, tmp_path / "o.npz")
    names, _ = example("lerobot_observations.py", write_data(tmp_path / "arm", "arm"), policy, tmp_path / "o.npz")
    items = [{"observation.images.cam0": np.full(CAMERA, frame / 255, np.float32)} for frame in range(sum(LENGTHS))]
    frames = names["read_frames"](data, ["observation.images.cam0"], items)
    assert frames["observation.images.cam0"].dtype == np.uint8
    assert frames["observation.images.cam0"][:, 0, 0, 0].tolist() == list(range(sum(LENGTHS)))
