"""`export --without CAMERA`: the policy of a robot that lacks a camera, compared with LeRobot's own."""

import json
from pathlib import Path

import numpy as np
import pytest

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.robots.control import History, sample_actions, with_prompt
from fewstep.runtime.text import load_text_encoder
from tests.robots.lerobot.policies import step, write, write_policy
from tests.robots.lerobot.without_camera import ACTIONS

CAMERAS = ["observation.images.cam0", "observation.images.cam1"]


def cameras_of(folder: Path, *without: str) -> list[str]:
    conditions = load_source(str(folder), without=without).spec.conditions
    return [condition.name for condition in conditions if "images" in condition.name or "wrist" in condition.name]


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05"])
def test_a_camera_that_is_left_out_is_no_condition(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path)
    assert cameras_of(tmp_path) == CAMERAS
    assert cameras_of(tmp_path, CAMERAS[0]) == [CAMERAS[1]] and cameras_of(tmp_path, CAMERAS[1]) == [CAMERAS[0]]


def test_a_camera_has_the_robots_name_or_the_policys(tmp_path: Path) -> None:
    write("smolvla", tmp_path)
    step("rename_observations_processor", rename_map={"wrist": CAMERAS[1]})(tmp_path)
    assert cameras_of(tmp_path) == [CAMERAS[0], "wrist"]
    assert cameras_of(tmp_path, "wrist") == cameras_of(tmp_path, CAMERAS[1]) == [CAMERAS[0]]
    assert cameras_of(tmp_path, CAMERAS[0]) == ["wrist"]


@pytest.mark.parametrize(
    ("without", "line"),
    [
        (("observation.images.top",), r"has no camera 'observation\.images\.top'; leave out one of .*cam0, .*cam1"),
        (("observation.state",), "has no camera 'observation.state'"),
        (tuple(CAMERAS), "no camera is left, and the policy needs one"),
    ],
)
def test_other_names_and_all_cameras_are_refused(tmp_path: Path, without: tuple[str, ...], line: str) -> None:
    write("pi0", tmp_path)
    with pytest.raises(UserError, match=line):
        load_source(str(tmp_path), without=without)


def test_a_policy_of_fixed_cameras_refuses_the_option(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", cameras=2)
    with pytest.raises(
        UserError, match="'diffusion' needs every camera .*; leave --without out: .* smolvla, pi0, pi05"
    ):
        load_source(str(tmp_path / "policy"), without=(CAMERAS[0],))


def test_a_source_without_cameras_refuses_the_option(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="has no cameras of a robot; leave --without out: it is for folders of LeRobot"):
        load_source("fashion_mnist", without=CAMERAS)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "camera"), ACTIONS)
def test_actions_are_those_of_lerobot_without_the_camera(
    tmp_path: Path, kind: str, camera: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = write(kind, tmp_path / "policy")
    export(ExportOptions(str(tmp_path / "policy"), tmp_path / "bundle", verify="quick", without=(camera,)))
    monkeypatch.setattr(noise, "normal_batch", lambda *_: record["noise"][None])
    with fewstep.runtime.load(tmp_path / "bundle") as sampler:
        history = History(sampler)
        history.add(
            {name.removeprefix("seen/"): value[0] for name, value in record.items() if name.startswith("seen/")}
        )
        window = with_prompt(load_text_encoder(tmp_path / "bundle"), history.window(), str(record["task"]))
        actions = sample_actions(sampler, "euler:10@trailing", window)
    theirs = np.array(ACTIONS[kind, camera])
    assert (np.abs(actions - theirs) / np.abs(theirs).max(axis=0)).max() < 1e-4
