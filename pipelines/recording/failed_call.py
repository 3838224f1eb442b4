"""What a message says of a pipeline's call that fails, or that changes its network."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewstep.export.error_text import location_in_file
from fewstep.pipelines.recording.settings import NEGATIVE, PROMPT
from fewstep.pipelines.recording.stand_ins import UNRECORDED

LONGEST_SHOWN = 80  # characters of an argument in a message
OFTEN_ABSENT = ("text_encoder", "image_encoder", "vae")  # components that a folder may lack, and its call may need
EMBEDS = "prompt_embeds"  # ends the names of arguments that replace texts
PERTURBATION = "pag_scale"  # the weight of perturbed attention, which replaces attention processors in the call


def describe_failure(error: Exception, pipeline: object) -> str:
    """Return an error of a pipeline's call as one line, with the line of the pipeline's own file."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    with suppress(OSError, TypeError):  # a class without a file, such as one of a notebook
        text += location_in_file(error, Path(inspect.getfile(type(pipeline))))
    return text


def name_with_absent(name: str, pipeline: object) -> str:
    """Return the name of a pipeline, with the components that it lacks."""
    absent = [component for component in OFTEN_ABSENT if getattr(pipeline, component, component) is None]
    return f"{name}, without {' and '.join(absent)}," if absent else name


def advise_run(settings: Mapping[str, Any], pipeline: Any) -> str:
    """Return the fix for a call that fails: encoded texts for a pipeline without a text encoder, otherwise the same
    call in Python. If that fails too, as where a pipeline passes no labels to a network that needs them, a function
    does without it."""
    embeds = [name for name in inspect.signature(type(pipeline).__call__).parameters if name.endswith(EMBEDS)]
    if embeds and settings.get(PROMPT) is not None and getattr(pipeline, "text_encoder", embeds) is None:
        texts = " ".join(f"--call {name}=null" for name in (PROMPT, NEGATIVE) if name in settings)
        arrays = " ".join(f"--call {name}=@FILE.npy" for name in embeds)
        return f"copy its text encoder into the folder, or give encoded texts: {texts} {arrays}"
    shown = {
        name: repr(value) if isinstance(value, str | int | float | None) else "" for name, value in settings.items()
    }
    given = (f"{name}={text if 0 < len(text) < LONGEST_SHOWN else '...'}" for name, text in shown.items())
    return f"run it in Python first: pipeline({', '.join(given)}); if no call runs, {UNRECORDED}"


def fix_of_change(pipeline: Any, layers: Sequence[str]) -> str:
    """Return the fix for a pipeline that changes its network during the call. `layers` have other attention
    processors."""
    if not layers or PERTURBATION not in inspect.signature(type(pipeline).__call__).parameters:
        return UNRECORDED
    change = f"--change pag:{','.join(layers)}"
    return f"give --call {PERTURBATION}=0 and {change}, and run with --guidance WEIGHT+pag:SCALE"
