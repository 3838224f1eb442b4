"""Read a policy as LeRobot saves it: config.json, model.safetensors, and its normalisation.

This needs neither the lerobot package nor network access. The bundle takes raw observations, since their normalisation
becomes part of the graph. The manifest stores the units of the actions.
"""

from pathlib import Path

from fewstep.export.sources.model_files import read_json
from fewstep.export.sources.torch_module import TorchSource
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.diffusion import load_diffusion
from fewstep.robots.lerobot.multi_task_dit import load_multi_task_dit
from fewstep.robots.lerobot.normalisation import RETRAINED, WRITE_IT
from fewstep.robots.lerobot.policy import CHECKPOINT, CONFIG, find_home, leave_out, read_policy
from fewstep.robots.lerobot.vla import load_pi, load_smolvla

CHECKPOINTS = "checkpoints"  # the folder of a training run with its numbered checkpoints
READERS = {  # by the policy type in config.json
    "diffusion": load_diffusion,
    "multi_task_dit": load_multi_task_dit,
    "smolvla": load_smolvla,
    "pi0": load_pi,
    "pi05": load_pi,
}
HEAD_ONLY = "export its action head (docs/policies.md, GR00T's action head)"
OF_ANY_CAMERAS = ("smolvla", "pi0", "pi05")  # types whose network attends to any number of pictures
UNSAMPLED = {  # types that fewstep has nothing to do for
    "act": "computes its actions in one call (ACT), without a sampler",
    "vqbet": "chooses its actions from a codebook (VQ-BeT), without a sampler",
    "pi0_fast": "writes its actions as tokens, one after another, without a sampler",
    "tdmpc": "plans its actions by a model of the world, without a sampler",
}


def load_lerobot_folder(folder: Path, statistics: str | None = None, without: tuple[str, ...] = ()) -> TorchSource:
    """Load the policy of a folder. Raises UserError that names a missing or invalid file or field.

    `statistics` selects a data set by name, if the folder has the statistics of several. `without` names cameras that
    the robot lacks.
    """
    there = find_home(folder)
    config = read_json(there / CONFIG, RETRAINED)
    kind = config["type"]
    if not isinstance(kind, str) or kind not in READERS:
        if isinstance(kind, str) and kind in UNSAMPLED:
            raise UserError(
                f"{folder}: a policy of type {kind!r} {UNSAMPLED[kind]}", "export its network to ONNX by torch"
            )
        fix = HEAD_ONLY if kind == "groot" else WRITE_IT
        raise UserError(f"{folder}: the policy is of type {kind!r}; fewstep reads only {', '.join(READERS)}", fix)
    if without and kind not in OF_ANY_CAMERAS:
        what = f"a policy of type {kind!r} needs every camera that it was trained with"
        raise UserError(what, f"leave --without out: it is for {', '.join(OF_ANY_CAMERAS)}")
    try:
        return READERS[kind](leave_out(read_policy(there, config, _name(folder.resolve()), statistics), without))
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
