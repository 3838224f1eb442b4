"""Load the source that a text names: a shipped model, a file, a folder, or a model on a hub."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.export.sources import hub
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError

if TYPE_CHECKING:
    from fewstep.export.sources.folder_kinds import FolderKind

LOG = logging.getLogger("fewstep")


def load_source(text: str, spec: Path | None = None, statistics: str | None = None, call: Sequence[str] = ()) -> Source:
    """Load the source that a text names, by its form: FILE.py:FUNCTION, FILE.onnx, a folder of diffusers or of a
    plugin, a model on a hub, or a shipped model. A shipped model's name takes precedence: a folder of that name is
    ./NAME. `statistics` names one of the data sets whose statistics a folder stores. `call` are arguments NAME=VALUE of
    a diffusers pipeline's call."""
    from fewstep.export.options.call_option import read_call
    from fewstep.export.sources import checkpoint, onnx_file, python_file, shipped
    from fewstep.export.sources.diffusers import component
    from fewstep.export.sources.diffusers import folder as diffusers_folder
    from fewstep.export.sources.diffusers.files import CONFIG, INDEX, is_component
    from fewstep.export.sources.folder_kinds import find_folder_kind

    if hub.is_name(text):
        there = hub.fetch(text)
        return there.rename_source(load_source(str(there.folder), spec, statistics, call))
    is_shipped = text in shipped.NAMES
    is_folder = (
        Path(text).is_dir() and not is_shipped
    )  # checked first: a folder's name may contain a colon, as on Windows
    if is_shipped and any((Path(text) / name).is_file() for name in (INDEX, CONFIG)):
        LOG.warning("%s is the shipped model; for the folder of that name give ./%s", text, text)
    arguments = read_call(text, call, spec)
    if statistics is not None:
        is_other = not is_folder or spec is not None or is_component(Path(text))
        return _load_with_statistics(text, None if is_other else find_folder_kind(Path(text)), statistics)
    if text.endswith(".onnx") and not is_folder:
        return onnx_file.load_onnx_file(Path(text), spec)
    if is_folder and is_component(Path(text)):
        return component.load_component(Path(text), spec)
    if spec is not None:
        fix = "leave --spec out: it is for .onnx files and folders of one diffusers component"
        raise UserError(f"source {text!r} has its own spec", fix)
    if is_folder:
        kind = find_folder_kind(Path(text))
        return diffusers_folder.load_diffusers_folder(Path(text), arguments) if kind is None else kind.load(Path(text))
    if ":" in text or text.endswith(".py"):
        return python_file.load_python_file(text, arguments)
    if checkpoint.is_checkpoint(text):
        checkpoint.refuse_checkpoint(text)
    if Path(text).is_file():
        raise UserError(f"{text} is not a file with a denoiser", shipped.GIVE_SOURCE)
    return shipped.load_shipped(text)


def _load_with_statistics(text: str, kind: "FolderKind | None", statistics: str) -> Source:
    """Load the source of a folder with the statistics of one data set. Raises UserError if its type stores none by data
    set."""
    if kind is None or kind.load_with_statistics is None:
        fix = "leave --statistics out: it is for folders of LeRobot"
        raise UserError(f"source {text!r} stores no statistics by data set", fix)
    return kind.load_with_statistics(Path(text), statistics)
