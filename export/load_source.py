"""Load the source that a text names: a shipped model, a file, a folder, or a model on a hub."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fewstep.export.sources import hub
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime.bundle.reading import MANIFEST
from fewstep.runtime.hub import is_name
from fewstep.runtime.links import keep_folder

if TYPE_CHECKING:
    from fewstep.export.sources.folder_kinds import Option

LOG = logging.getLogger("fewstep")
GIVE_FOLDER = "give the folder that pipeline.save_pretrained(FOLDER) wrote, or a checkpoint's of LeRobot"


def load_source(
    text: str,
    spec: Path | None = None,
    statistics: str | None = None,
    call: Sequence[str] = (),
    config: str | None = None,
    without: Sequence[str] = (),
) -> Source:
    """Load the source that a text names, by its form: FILE.py:FUNCTION, FILE.onnx, a folder of a kind that export reads
    (`FolderKind`), a model on a hub, or a shipped model. A shipped model's name takes precedence: a folder of that name
    is ./NAME.

    spec: a JSON file, for sources that do not have all facts of their denoiser.
    statistics: the name of one of the data sets whose statistics a folder stores.
    call: arguments NAME=VALUE of a pipeline's call.
    config: the folder or the hub's name of a pipeline, for a source that is one file of weights.
    without: names of cameras that the robot lacks.
    Raises UserError for an option that the source does not take.
    """
    from fewstep.export.options.call_option import parse_call
    from fewstep.export.sources import checkpoint, onnx_file, python_file, shipped
    from fewstep.export.sources.folder_kinds import find_folder_kind

    if config is None and is_name(text):
        there = hub.fetch(text)
        return there.rename_source(load_source(str(there.folder), spec, statistics, call, without=without))
    path = Path(text)
    given: dict[Option, Any] = {}
    if call:
        given["call"] = parse_call(call)
    if spec is not None:
        given["spec"] = spec
    if statistics is not None:
        given["statistics"] = statistics
    if without:
        given["without"] = tuple(without)
    if config is not None:
        return _load_checkpoint(text, config, given)
    if text in shipped.NAMES:
        if find_folder_kind(path) is not None:
            LOG.warning("%s is the shipped model; for the folder of that name give ./%s", text, text)
        _refuse_options(text, given)
        return shipped.load_shipped(text)
    if path.is_dir():  # checked first: a folder's name may contain a colon, as on Windows
        return _load_folder(path, given)
    if text.endswith(".onnx"):
        _refuse_options(text, given, ("spec",))
        return onnx_file.load_onnx_file(path, spec)
    if ":" in text or text.endswith(".py"):
        _refuse_options(text, given, ("call",))
        return python_file.load_python_file(text, given.get("call"))
    _refuse_options(text, given)
    if checkpoint.is_checkpoint(text):
        checkpoint.refuse_checkpoint(text)
    if path.is_file():
        raise UserError(f"{text} is not a file with a denoiser", shipped.GIVE_SOURCE)
    return shipped.load_shipped(text)


def _load_checkpoint(text: str, config: str, given: "dict[Option, Any]") -> Source:
    """Load a file of weights, with the configs of a folder or of a model on a hub."""
    from fewstep.export.sources import checkpoint

    if not checkpoint.is_checkpoint(text):
        raise UserError(f"source {text!r} has its own configs", "leave --config out: it is for one file of weights")
    _refuse_options(text, given, ("call",))
    folder = hub.fetch_configs(config) if is_name(config) else Path(config)
    return checkpoint.load_checkpoint(Path(text), folder, given, config)


def _load_folder(path: Path, given: "dict[Option, Any]") -> Source:
    from fewstep.export.sources.folder_kinds import find_folder_kind
    from fewstep.export.sources.model_files import CONFIG, INDEX, SUFFIXES

    kind = find_folder_kind(path)
    if kind is None:
        _refuse_folder(path)
    _refuse_options(str(path), given, kind.takes)
    with keep_folder(path, SUFFIXES, (INDEX, CONFIG)):
        return kind.load(path, **given)


def _refuse_folder(path: Path) -> NoReturn:
    """Raise UserError for a folder that export cannot read."""
    if (path / MANIFEST).is_file():
        fix = f"give its original source, or run it: fewstep run {quote_path(path)}"
        raise UserError(f"{path} is a bundle, the output of an export", fix)
    raise UserError(
        f"{path} is not a folder of a denoiser: it has neither model_index.json nor config.json", GIVE_FOLDER
    )


def _refuse_options(text: str, given: "dict[Option, Any]", takes: "Sequence[Option]" = ()) -> None:
    """Raise UserError for an option that a source does not take."""
    reasons: dict[Option, tuple[str, str]] = {
        "call": ("has no pipeline to call", "diffusers pipelines"),
        "spec": ("has its own spec", ".onnx files"),
        "statistics": ("stores no statistics by data set", "folders of LeRobot"),
        "without": ("has no cameras of a robot", "folders of LeRobot"),
    }
    for option in given:
        if option not in takes:
            what, sources = reasons[option]
            raise UserError(f"source {text!r} {what}", f"leave --{option} out: it is for {sources}")
