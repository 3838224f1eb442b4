"""Read a Spec from a JSON file, for denoisers without Python code."""

from pathlib import Path
from typing import Any

import msgspec

from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError

SPEC_LIMIT = 2**20  # bytes: a typical spec has a few hundred


def read_spec(path: Path) -> Spec:
    """Read the fields of `Spec`, by name. Raises UserError naming the field that is wrong, missing or unknown."""
    if not path.is_file():
        raise UserError(f"there is no spec file {path}", "check the path after --spec")
    if path.stat().st_size > SPEC_LIMIT:
        raise UserError(
            f"spec {path.name} is larger than {SPEC_LIMIT} bytes", "give a JSON object like those in docs/export.md"
        )
    try:
        content: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"spec {path.name} is not a JSON object ({error})", "write it as in docs/export.md") from error
    fields = msgspec.structs.fields(Spec)
    known = [field.name for field in fields]
    unknown = next((name for name in content if name not in known), None)
    if unknown is not None:
        raise UserError(f"spec {path.name} has an unknown field {unknown!r}", f"use only {', '.join(known)}")
    missing = next((field.name for field in fields if field.required and field.name not in content), None)
    if missing is not None:
        raise UserError(f"spec {path.name} has no field {missing!r}", "write it as in docs/export.md")
    return Spec(**content)
