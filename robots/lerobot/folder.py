"""Read a policy as LeRobot saves it: config.json, model.safetensors, and its normalisation.

This needs neither the lerobot package nor network access. The bundle takes raw observations, since their normalisation
becomes part of the graph. The manifest stores the units of the actions.
"""

from pathlib import Path

from fewstep.export.sources.diffusers.files import read_json
from fewstep.export.sources.torch_module import TorchSource
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.diffusion import load_diffusion
from fewstep.robots.lerobot.multi_task_dit import load_multi_task_dit
from fewstep.robots.lerobot.normalisation import RETRAINED, WRITE_IT
from fewstep.robots.lerobot.policy import CHECKPOINT, CONFIG, find_home, read_policy
from fewstep.robots.lerobot.vla import load_pi, load_smolvla

CHECKPOINTS = "checkpoints"  # the folder of a training run with its numbered checkpoints
READERS = {  # by the policy type in config.json
    "diffusion": load_diffusion,
    "multi_task_dit": load_multi_task_dit,
    "smolvla": load_smolvla,
    "pi0": load_pi,
    "pi05": load_pi,
}


def load_lerobot_folder(folder: Path, statistics: str | None = None) -> TorchSource:
    """Load the policy of a folder. Raises UserError that names a missing or invalid file or field.

    `statistics` selects a data set by name, if the folder has the statistics of several.
    """
    there = find_home(folder)
    config = read_json(there / CONFIG, RETRAINED)
    kind = config["type"]
    if not isinstance(kind, str) or kind not in READERS:
        raise UserError(f"{folder}: the policy is of type {kind!r}; fewstep reads only {', '.join(READERS)}", WRITE_IT)
    try:
        return READERS[kind](read_policy(there, config, _name(folder.resolve()), statistics))
    except KeyError as error:
        raise UserError(f"{there / CONFIG} has no {error.args[0]!r}", RETRAINED) from error
    except (IndexError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError) as error:  # torch too
        reason = " ".join(str(error).split())
        raise UserError(f"{there}: a file does not fit a {kind} policy ({reason})", RETRAINED) from error


def _name(folder: Path) -> str:
    """Return the name of the policy: that of its folder or, for a checkpoint, whose folder is named by a number or
    "last", that of the training run."""
    checkpoint = folder.parent if folder.name == CHECKPOINT else folder
    run = checkpoint.parent.parent.name if checkpoint.parent.name == CHECKPOINTS else ""
    return run or folder.name
