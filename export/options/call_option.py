"""The option `--call`: arguments of a pipeline's call for its recording, such as height=512."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.export.sources import shipped
from fewstep.export.sources.diffusers.files import is_component
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.plans.errors import UserError


def parse_call(texts: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that texts NAME=VALUE give, by name. A value is read as JSON if it is valid JSON, otherwise
    as text."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--call {text!r} is not NAME=VALUE", "give an argument such as height=512")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def read_call(text: str, call: Sequence[str], spec: Path | None) -> dict[str, Any]:
    """Return the arguments of a call. Raises UserError if there are any but the source is not a diffusers pipeline."""
    path = Path(text)
    is_file = ".py:" in text and not path.is_dir()  # a function, which may return a pipeline
    if (
        not call
        or is_file
        or (path.is_dir() and not (spec or text in shipped.NAMES or is_component(path) or _has_kind(path)))
    ):
        return parse_call(call)
    raise UserError(f"source {text!r} has no pipeline to call", "leave --call out: it is for diffusers pipelines")


def _has_kind(path: Path) -> bool:
    return find_folder_kind(path) is not None
