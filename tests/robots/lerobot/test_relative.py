"""Policies whose actions are relative to the state: pi0 and pi0.5 with `use_relative_actions`."""

import json
from pathlib import Path

import numpy as np
import pytest

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.plans import noise
from fewstep.robots.control import History, sample_actions, with_prompt
from fewstep.robots.lerobot.normalisation import ABSOLUTE, RELATIVE, RENAMED, read_relative_elements
from fewstep.runtime.text import load_text_encoder
from tests.refusals import refuses
from tests.robots.lerobot.policies import config, relative, step, write


@pytest.mark.parametrize(
    ("excluded", "names", "elements"),
    [
        (["gripper"], ["shoulder.pos", "Left_Gripper.pos"], (0,)),
        (["gripper"], ["gripper", "shoulder"], (1,)),
        (["gripper"], None, (0, 1)),  # LeRobot excludes nothing then
        ([], ["shoulder", "gripper"], (0, 1)),
        (["gripper"], ["gripper"], (1,)),
        (["gripper", "shoulder"], ["gripper", "shoulder", "elbow"], ()),
    ],
)
def test_joints_whose_names_are_excluded_stay_absolute(
    tmp_path: Path, excluded: list[str], names: list[str] | None, elements: tuple[int, ...]
) -> None:
    steps = {
        "policy_preprocessor.json": (RELATIVE, {"enabled": True, "exclude_joints": excluded, "action_names": names}),
        "policy_postprocessor.json": (ABSOLUTE, {"enabled": True}),
    }
    for file, (name, settings) in steps.items():
        (tmp_path / file).write_text(json.dumps({"steps": [{"registry_name": name, "config": settings}]}))
    assert read_relative_elements(tmp_path, 2) == elements


def test_actions_are_relative_to_the_state_by_the_robots_name(tmp_path: Path) -> None:
    write("pi0", tmp_path)
    relative([], None)(tmp_path)
    step(RENAMED, rename_map={"joints": "observation.state"})(tmp_path)
    policy = load_source(str(tmp_path)).spec.policy
    assert policy is not None and (policy.relative_to, policy.relative) == ("joints", (0, 1))


def test_a_step_that_the_config_denies_is_refused(tmp_path: Path) -> None:
    write("pi05", tmp_path)
    relative([], None)(tmp_path)
    config(use_relative_actions=False)(tmp_path)
    with refuses(("config.json has use_relative_actions false, and its processors differ",)):
        load_source(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_relative_actions_are_those_of_lerobot_plus_the_state(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record's actions are LeRobot's for absolute ones. tests/clients/closed_loop.py runs LeRobot itself."""
    record = write(kind, tmp_path / "policy")
    relative(["gripper"], ["shoulder", "gripper"])(tmp_path / "policy")
    export(ExportOptions(str(tmp_path / "policy"), tmp_path / "bundle", verify="quick"))
    monkeypatch.setattr(noise, "normal_batch", lambda *_: record["noise"][None])
    with fewstep.runtime.load(tmp_path / "bundle") as sampler:
        history = History(sampler)
        observation = {
            name.removeprefix("seen/"): value[0] for name, value in record.items() if name.startswith("seen/")
        }
        history.add(observation)
        window = with_prompt(load_text_encoder(tmp_path / "bundle"), history.window(), str(record["task"]))
        actions = sample_actions(sampler, "euler:10@trailing", window)
    expected = record["actions"] + np.array([observation["observation.state"][0], 0.0])
    assert (np.abs(actions - expected) / np.abs(record["actions"]).max(axis=0)).max() < 1e-4
