"""A Spec in a JSON file, for denoisers that come without Python."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError

SPEC_LIMIT = 2**20  # bytes: a spec has some hundred


def read_spec(path: Path) -> Spec:
    """The fields of `Spec`, by name. UserError naming the field that is wrong, missing or unknown."""
    if not path.is_file():
        raise UserError(f"there is no spec file {path}", "check the path behind --spec")
    if path.stat().st_size > SPEC_LIMIT:
        raise UserError(
            f"spec {path.name} is larger than {SPEC_LIMIT} bytes", "give a JSON object such as docs/export.md shows"
        )
    try:
        content: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"spec {path.name} is no JSON object ({error})", "write it as docs/export.md shows") from error
    fields = {field.name: field for field in dataclasses.fields(Spec)}
    unknown = next((name for name in content if name not in fields), None)
    if unknown is not None:
        raise UserError(f"spec {path.name} has a field {unknown!r}", f"it takes {', '.join(fields)}")
    for name, field in fields.items():
        if name not in content and field.default is dataclasses.MISSING:
            raise UserError(f"spec {path.name} has no field {name!r}", "write it as docs/export.md shows")
    return Spec(**content)
