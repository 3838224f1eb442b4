"""The command that fits a plan to a body: for whoever lacks the plan, or lost its file."""

import re
from contextlib import suppress
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.guidance import as_guidance, weight_of
from fewstep.runtime.bundle.manifest import FittedPlan, Manifest
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, platform_of


def fit_command(path: Path, manifest: Manifest, steps: int, body: str, weight: float | None) -> str:
    """The command line that fits a plan of so many evaluations to a body, at a guidance weight."""
    at = "" if weight is None else f" --guidance {weight:g}"
    return f"fewstep fit {path} --steps {steps}{_body_words(manifest, body)}{at}"


def fit_again(path: Path, manifest: Manifest, steps: int, body: str, weight: float | None, lead: str = "") -> str:
    """`fit_command` behind `lead`. Without float32, which is the teacher's, it is words that say where it can run."""
    if "float32" not in manifest.bodies:  # `fewstep pack` left it out
        return "fit it in the bundle that this was packed from"
    return f"{lead}{fit_command(path, manifest, steps, body, weight)}"


def weight_of_fit(path: Path, manifest: Manifest, entry: FittedPlan) -> float | None:
    """The guidance weight of a fitted plan whose file is lost. A recorded command that made none of the readable plans
    gives it; else the one weight of all readable plans."""
    own, uses = (str(entry.evaluations), _body_words(manifest, entry.body)), {}
    for each in manifest.fitted:
        with suppress(OSError, UserError):
            weight = weight_of(decode((path / each.file).read_bytes(), each.file).guidance)
            uses[each.file] = weight, (str(each.evaluations), _body_words(manifest, each.body))
    recorded = filter(None, map(_recorded, manifest.provenance.commands))
    lost = [weight for weight, use in recorded if use == own and (weight, use) not in uses.values()]
    others = {weight for weight, _ in uses.values()}
    return lost[-1] if lost else others.pop() if len(others) == 1 else None


def _recorded(command: str) -> tuple[float | None, tuple[str, str]] | None:
    """The weight, the evaluations and the body, in words of `fit_command`, that a recorded fit was for."""
    if not command.startswith("fewstep fit "):
        return None
    said = {"steps": "6", "guidance": "1"} | dict(re.findall(r" --(\S+) (\S+)", command))
    body = "".join(f" --{word} {said[word]}" for word in ("precision", "backend") if {word, "precision"} <= set(said))
    return weight_of(as_guidance(float(said["guidance"]))), (said["steps"], body)


def _body_words(manifest: Manifest, name: str) -> str:
    body = manifest.bodies.get(name)
    if body is None or body.precision == "float32":
        return ""
    platform = platform_of(body.target)
    backend = ONNXRUNTIME if platform is None else platform.backend
    return f" --precision {body.precision}" + ("" if backend == ONNXRUNTIME else f" --backend {backend}")
