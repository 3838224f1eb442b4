"""The plugin with which `fewstep export` reads LeRobot folders. Torch is imported with the first policy."""

from pathlib import Path

from fewstep.export.sources.folder_kinds import FolderKind
from fewstep.export.sources.model_files import read_json
from fewstep.export.spec import Source
from fewstep.robots.lerobot.adapter import ADAPTER, ADAPTER_CONFIG, WEIGHTS
from fewstep.robots.lerobot.normalisation import RETRAINED, state_files
from fewstep.robots.lerobot.policy import CONFIG, find_home


def _is_policy(folder: Path) -> bool:
    """Return whether the folder has a LeRobot policy of any type."""
    config = find_home(folder) / CONFIG
    return config.is_file() and "type" in read_json(config, RETRAINED)


def _load(folder: Path, statistics: str | None = None, without: tuple[str, ...] = ()) -> Source:
    from fewstep.robots.lerobot.folder import load_lerobot_folder  # imports torch

    return load_lerobot_folder(folder, statistics, without)


def _weight_files(folder: Path) -> list[str]:
    """Return the files with the policy's weights, with its adapter if it has one, and with the statistics of its
    processors."""
    there = find_home(folder)
    adapter = [ADAPTER] if (there / ADAPTER_CONFIG).is_file() else []
    names = [WEIGHTS, *adapter, *state_files(there)]
    return [(there / name).relative_to(folder).as_posix() for name in names]


LEROBOT = FolderKind(_is_policy, _load, _weight_files, takes=("statistics", "without"))
