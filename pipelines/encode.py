"""The verb `encode`: encode prompts as the conditions of a bundle that does not contain its pipeline's text
encoders."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.export.options.call_option import parse_call
from fewstep.graph.files.output_files import atomic_file, check_writable
from fewstep.plans.errors import UserError
from fewstep.runtime.options import Options

if TYPE_CHECKING:
    from fewstep.pipelines.recorded_pipeline import RecordedPipeline
    from fewstep.pipelines.recording.components import BuiltPipeline

IMAGE, FILE_TYPE = "image", ".npz"
GIVE_ENCODED = "fewstep run BUNDLE --conditions FILE.npz"


@dataclass(frozen=True)
class EncodeOptions(Options):
    """Encode prompts as conditions, with the text encoders of a pipeline whose bundle has none.

    source: What the bundle was exported from: the diffusers folder of a pipeline, or FILE.py:FUNCTION.
    prompt: Text prompt. If it is given several times, each prompt becomes one row.
    negative: Negative prompt, for the unconditional branch of `fewstep run`.
    image: An image that the pipeline takes besides the prompt, as FILE or NAME=FILE with the argument's name.
    call: NAME=VALUE, like height=512: an argument of the pipeline's call. Give the same values as to export.
    dtype: Type in which the encoders run: float32, or bfloat16 for half the memory.
    output: The .npz file to write, with one array per condition.
    """

    source: str
    prompt: tuple[str, ...] = field(default=(), metadata={"short": "-p", "whole": True, "is_text": True})
    negative: str | None = None
    image: tuple[str, ...] = field(default=(), metadata={"whole": True})
    call: tuple[str, ...] = field(default=(), metadata={"whole": True, "is_text": True})
    dtype: Literal["float32", "bfloat16"] = "float32"
    output: Path = field(default=Path("prompts.npz"), metadata={"short": "-o"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output.suffix != FILE_TYPE:
            raise UserError(f"cannot write {self.output}", "name an .npz file")


def encode(options: EncodeOptions) -> dict[str, NDArray[Any]]:
    """Encode prompts and images, write the file, and return its arrays [N, *shape] by name. Raises UserError for a
    folder whose pipeline export does not record, and for a function that returns no pipeline."""
    check_writable(options.output)
    call, pictures = parse_call(options.call), _parse_pictures(options.image)
    is_folder = ".py" not in options.source or Path(options.source).is_dir()
    open_pipeline = _open_folder if is_folder else _open_function
    built, recorded = open_pipeline(options, call)
    from fewstep.pipelines.companions.encoding import encode_conditions

    made = encode_conditions(built, recorded, options.prompt, options.negative, pictures)
    with atomic_file(options.output) as stream:
        np.savez(stream, **made)  # type: ignore[arg-type]  # numpy's annotation takes the names for its own options
    return made


def _open_function(options: EncodeOptions, call: Mapping[str, Any]) -> "tuple[BuiltPipeline, RecordedPipeline]":
    """Return the pipeline that FILE.py:FUNCTION returns with its encoders, and its recording."""
    from fewstep.export.sources.python_file import call_function

    pipeline, label, _ = call_function(options.source)
    diffusers = sys.modules.get("diffusers")  # imported by a function that returns a pipeline
    if diffusers is None or not isinstance(pipeline, diffusers.DiffusionPipeline):
        raise UserError(f"{label} returns no DiffusionPipeline", f"encode texts yourself, and give {GIVE_ENCODED}")
    import torch

    from fewstep.pipelines.recording.live import build_from_pipeline
    from fewstep.pipelines.source import record_in_memory

    recorded, encoders = record_in_memory(pipeline, label, call)
    dtype = getattr(torch, options.dtype)
    return build_from_pipeline(pipeline, label, encoders=encoders, dtype=dtype), recorded


def _open_folder(options: EncodeOptions, call: Mapping[str, Any]) -> "tuple[BuiltPipeline, RecordedPipeline]":
    """Return the pipeline of a folder with its encoders, and its recording."""
    import torch  # takes seconds, and --help does not need it

    from fewstep.pipelines.companions.encoding import load_encoders
    from fewstep.pipelines.files.folder import Folder
    from fewstep.pipelines.source import record_folder

    folder = Folder(Path(options.source))
    recorded = record_folder(folder, call)
    return load_encoders(folder, getattr(torch, options.dtype), bool(options.image)), recorded


def _parse_pictures(texts: tuple[str, ...]) -> dict[str, Path]:
    """Parse the values of --image, FILE or NAME=FILE. Return the image files by the name of the pipeline's argument."""
    pictures: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals and name.isidentifier() else (IMAGE, text)
        if name in pictures:
            raise UserError(f"--image gives {name!r} twice", "give it once")
        pictures[name] = Path(path)
    return pictures
