"""The place in a folder of a policy as LeRobot saves it. Torch is not needed to find it."""

from pathlib import Path

from fewstep.export.sources.diffusers.files import INDEX, read_json
from fewstep.robots.lerobot.policy import CONFIG
from fewstep.robots.lerobot.statistics import RETRAINED

CHECKPOINT = "pretrained_model"  # the folder inside a training checkpoint that holds the policy


def is_policy(folder: Path) -> bool:
    """True where the folder holds a policy of LeRobot's, of whichever type, rather than a pipeline of diffusers."""
    config = home(folder) / CONFIG
    return not (folder / INDEX).is_file() and config.is_file() and "type" in read_json(config, RETRAINED)


def home(folder: Path) -> Path:
    """The folder of the policy itself: this one, or the one inside a checkpoint."""
    return folder if (folder / CONFIG).is_file() else folder / CHECKPOINT
