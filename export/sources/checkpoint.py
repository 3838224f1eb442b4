"""A checkpoint as a source: one file of weights. They do not define their network: the configs of a folder do. Loading
a pickle runs code, so pickles are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fewstep.export.sources.folder_kinds import Option, find_folder_kind
from fewstep.export.sources.model_files import CONFIG, INDEX, SUFFIXES
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.runtime.links import keep_folder, refuse_broken_link

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".tar")  # suffixes of files of pickle and of torch.save
READ = (".safetensors", ".gguf")  # suffixes of files that a folder kind may read
WEIGHTS = (*READ, ".npz", ".h5")
GIVE_CONFIG = "give --config FOLDER with the configs of its pipeline, or ORG/NAME of such a folder on a hub"
FIX = "write a FILE.py with a function that loads it and returns (module, Spec), and give FILE.py:FUNCTION"


def is_checkpoint(text: str) -> bool:
    """Return True if a source has the name of a weight file."""
    return Path(text).suffix.lower() in (*PICKLES, *WEIGHTS)


def load_checkpoint(file: Path, config: Path, given: Mapping[Option, Any], label: str) -> Source:
    """Load the denoiser of a file of weights, with the configs in a folder. `label` is the user's name of the folder.

    Raises UserError for a folder whose kind has no such files, and for an option that it does not take.
    """
    if file.suffix.lower() not in READ:
        raise UserError(f"{file.name} is not read with --config: {', '.join(READ)} are", FIX)
    _refuse_missing(file)
    kind = find_folder_kind(config)
    if kind is None or kind.load_file is None:
        raise UserError(f"--config {label} is not a folder of a diffusers pipeline, with model_index.json", GIVE_CONFIG)
    with keep_folder(config, SUFFIXES, (INDEX, CONFIG)):
        return kind.load_file(file, config, **{str(name): value for name, value in given.items()})


def refuse_checkpoint(text: str) -> NoReturn:
    """Raise UserError for a file of weights, with the source to give instead, or because it does not exist."""
    file = Path(text)
    _refuse_missing(file)
    near = file.absolute().parents[:2]
    home = next((folder for folder in (near[1], near[0]) if find_folder_kind(folder) is not None), None)
    holds = "is a pickle, which runs code when it is loaded" if file.suffix.lower() in PICKLES else "holds weights only"
    fix = f"{GIVE_CONFIG}, or {FIX}" if file.suffix.lower() in READ else FIX
    raise UserError(f"{file.name} {holds}", fix if home is None else f"give its folder, {home}")


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        refuse_broken_link(file)
        raise UserError(f"there is no file {file}", "check the path")
