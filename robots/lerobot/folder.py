"""A policy as LeRobot saves it: config.json, model.safetensors, and its normalisation.

Read without LeRobot, and without network access. The bundle takes raw observations, since their normalisation becomes
part of the graph, and gives actions whose units the manifest holds.
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

CHECKPOINTS = "checkpoints"  # the folder of a run of training that holds its checkpoints, by their number
READERS = {  # by the type that config.json names
    "diffusion": load_diffusion,
    "multi_task_dit": load_multi_task_dit,
    "smolvla": load_smolvla,
    "pi0": load_pi,
    "pi05": load_pi,
}


def load_lerobot_folder(folder: Path, statistics: str | None = None) -> TorchSource:
    """The policy of a folder. UserError naming the file or field that is missing, or is of another kind.

    `statistics` names the data set whose statistics are taken, where the folder has those of several.
    """
    there = find_home(folder)
    config = read_json(there / CONFIG, RETRAINED)
    kind = config["type"]
    if not isinstance(kind, str) or kind not in READERS:
        raise UserError(f"{folder}: its policy is of type {kind!r}, and fewstep reads {', '.join(READERS)}", WRITE_IT)
    try:
        return READERS[kind](read_policy(there, config, _name(folder.resolve()), statistics))
    except KeyError as error:
        raise UserError(f"{there / CONFIG} has no {error.args[0]!r}", RETRAINED) from error
    except (IndexError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError) as error:  # and torch's
        reason = " ".join(str(error).split())
        raise UserError(f"{there}: a file does not fit a {kind} policy ({reason})", RETRAINED) from error


def _name(folder: Path) -> str:
    """The folder's name, or the run's of one of its checkpoints: those are numbers, or "last"."""
    checkpoint = folder.parent if folder.name == CHECKPOINT else folder
    run = checkpoint.parent.parent.name if checkpoint.parent.name == CHECKPOINTS else ""
    return run or folder.name
