"""Refuse a checkpoint as a source: weights do not define their network, and loading a pickle runs code."""

from pathlib import Path
from typing import NoReturn

from fewstep.export.sources.diffusers.files import INDEX, is_component
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.plans.errors import UserError

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".tar")  # suffixes of files of pickle and of torch.save
WEIGHTS = (".safetensors", ".npz", ".h5", ".gguf")
FIX = "write a FILE.py with a function that loads it and returns (module, Spec), and give FILE.py:FUNCTION"


def is_checkpoint(text: str) -> bool:
    """Return True if a source has the name of a weight file."""
    return Path(text).suffix.lower() in (*PICKLES, *WEIGHTS)


def refuse_checkpoint(text: str) -> NoReturn:
    """Raise UserError for a file of weights, with the source to give instead."""
    file = Path(text)
    near = file.absolute().parents[:2]
    home = next((folder for folder in near if _is_source(folder)), near[0] if is_component(near[0]) else None)
    holds = "is a pickle, which runs code when it is loaded" if file.suffix.lower() in PICKLES else "holds weights only"
    raise UserError(f"{file.name} {holds}", FIX if home is None else f"give its folder, {home}")


def _is_source(folder: Path) -> bool:
    """Return True if export can read a folder: a diffusers folder, or one that a plugin reads."""
    return (folder / INDEX).is_file() or find_folder_kind(folder) is not None
