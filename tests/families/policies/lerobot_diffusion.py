"""LeRobot's diffusion policy as its training saves it. With cameras: tests/robots/lerobot/test_folder.py."""

from pathlib import Path

from tests.robots.lerobot.policies import write_policy

NAME = "Diffusion policy (LeRobot folder)"
PLAN = "ddim:2@trailing"


def make(folder: Path) -> str:
    write_policy(folder / "policy", environment=2, prediction_type="sample")
    return str(folder / "policy")
