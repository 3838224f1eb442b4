"""The command that fits a plan to a denoiser, for errors about a missing plan or a lost file."""

import re
from contextlib import suppress
from pathlib import Path

from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.file import decode
from fewstep.plans.guidance import as_guidance, weight_of
from fewstep.runtime.bundle.conditions import has_unconditional_form
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest


def refit_command(path: Path, manifest: Manifest, steps: int, weight: float | None, lead: str = "") -> str:
    """Return `lead` and the command line that fits a plan of `steps` evaluations at a guidance weight. A weight of None
    means no guidance; for a calibrated bundle, the command line says so, because its default is the guidance of the
    calibration.

    A fit needs the float32 body. If the bundle has none, the result is a sentence that says in which bundle to fit.
    """
    if "float32" not in manifest.bodies:  # `fewstep pack` left it out
        return "fit it in the bundle that this was packed from"
    is_calibrated = any(body.plan is not None for body in manifest.bodies.values())
    if weight is None and is_calibrated and has_unconditional_form(manifest.conditions):
        weight = 1.0
    return f"{lead}fewstep fit {quote_path(path)} --steps {steps}" + (
        "" if weight is None else f" --guidance {weight:g}"
    )


def weight_of_fit(path: Path, manifest: Manifest, entry: FittedPlan) -> float | None:
    """Return the guidance weight of a fitted plan whose file is lost; None if it is unknown.

    It is read from a recorded fit command whose plan cannot be read. Without such a command, it is the weight of the
    readable plans, if all have the same.
    """
    uses = {}
    for each in manifest.fitted:
        with suppress(OSError, UserError):
            plan = decode((path / each.file).read_bytes(), each.file)
            uses[each.file] = weight_of(plan.guidance), str(each.evaluations)
    recorded = filter(None, map(_parse_fit_command, manifest.provenance.commands))
    lost = [use for use in recorded if use[1] == str(entry.evaluations) and use not in uses.values()]
    others = {weight for weight, _ in uses.values()}
    return lost[-1][0] if lost else others.pop() if len(others) == 1 else None


def _parse_fit_command(command: str) -> tuple[float | None, str] | None:
    """Return the guidance weight and the evaluations of a recorded fit command; None for other commands."""
    if not command.startswith("fewstep fit "):
        return None
    options = {"steps": "6", "guidance": "1"} | dict(re.findall(r" --(\S+) (\S+)", command))
    return weight_of(as_guidance(float(options["guidance"]))), options["steps"]
