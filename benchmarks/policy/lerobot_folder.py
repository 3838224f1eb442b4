"""The folder of a policy that LeRobot trained."""

import json
from pathlib import Path


def policy_folder(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint that has the policy."""
    inner = checkpoint / "pretrained_model"
    return inner if inner.is_dir() else checkpoint


def predicts_noise(folder: Path) -> bool:
    """Return whether a policy predicts noise. It needs a clip in few steps, which fitted plans do not have."""
    return bool(json.loads((folder / "config.json").read_text())["prediction_type"] == "epsilon")
