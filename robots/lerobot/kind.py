"""The plugin with which `fewstep export` reads LeRobot folders. Torch is imported with the first policy."""

from pathlib import Path

from fewstep.export.sources.diffusers.files import INDEX, read_json
from fewstep.export.sources.folder_kinds import FolderKind
from fewstep.export.spec import Source
from fewstep.robots.lerobot.normalisation import RETRAINED, state_files
from fewstep.robots.lerobot.policy import CONFIG, WEIGHTS, find_home


def _is_policy(folder: Path) -> bool:
    """Return whether the folder has a LeRobot policy of any type, instead of a diffusers pipeline."""
    config = find_home(folder) / CONFIG
    return not (folder / INDEX).is_file() and config.is_file() and "type" in read_json(config, RETRAINED)


def _load(folder: Path, statistics: str | None = None) -> Source:
    from fewstep.robots.lerobot.folder import load_lerobot_folder  # imports torch

    return load_lerobot_folder(folder, statistics)


def _weight_files(folder: Path) -> list[str]:
    """Return the files with the policy's weights and with the statistics of its processors."""
    there = find_home(folder)
    return [(there / name).relative_to(folder).as_posix() for name in (WEIGHTS, *state_files(there))]


LEROBOT = FolderKind(holds=_is_policy, load=_load, weights=_weight_files, load_with_statistics=_load)
