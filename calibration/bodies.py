"""The int8 bodies of a bundle, opened for judging: each run as it is deployed, or its numerics simulated.

onnxruntime runs bodies for its own targets natively, and OpenVINO its own where it is installed. Those of other engines
onnxruntime computes with their Q/DQ pairs kept in float: the 8-bit rounding is theirs, the rest is float32.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fewstep.calibration.lowering.agreement import as_deployed
from fewstep.calibration.lowering.targets import TARGETS
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import as_guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.backends import openvino
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.calibrated_plan import calibrated_plan
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import PLAN, Sampler

NATIVE = tuple(each.name for each in TARGETS if each.engine is as_deployed)  # run by onnxruntime as they are deployed
RUN_HERE = ("portable", *NATIVE)  # float32 too
ENGINE = "onnxruntime"
ON_OPENVINO = "OpenVINO"
SIMULATION = "onnxruntime: 8-bit rounding simulated, the rest float32"  # of any other engine's body
FIRST = (ENGINE, ON_OPENVINO, SIMULATION)  # the order in which bodies are judged


def progressive_target(names: Sequence[str]) -> str:
    """Of the targets of one calibration, the one whose int8 steps its progressive inputs come from: the first that
    onnxruntime runs as it is deployed."""
    return next((name for name in names if name in NATIVE), names[0])


def engine_of(body: Body) -> str:
    """What computes a body here, in words."""
    if body.target in NATIVE:
        return ENGINE
    return ON_OPENVINO if body.target == OPENVINO.name and _has_openvino() else SIMULATION


def is_native(body: Body) -> bool:
    """True for bodies that run here as they are deployed."""
    return engine_of(body) != SIMULATION


@cache
def _has_openvino() -> bool:
    """Tried once: an import that fails is searched for anew each time."""
    try:
        openvino.module()
    except UserError:
        return False
    return True


def graph_files(body: Body) -> tuple[str, ...]:
    """The files of a body's graphs, which name their content."""
    return (body.graph.file, *(stage.graph.file for stage in body.stages))


def int8_bodies(bundle: Bundle) -> dict[str, Body]:
    """Those that run here natively first, without those that are `not_judged`. UserError if there are none."""
    found = {name: body for name, body in bundle.manifest.bodies.items() if body.precision == "int8"}
    refused = not_judged(bundle)
    if found and len(refused) == len(found):
        raise next(iter(refused.values()))
    found = {name: body for name, body in found.items() if name not in refused}
    if not found:
        raise UserError(f"{bundle.path} has no int8 body to judge", f"fewstep calibrate {bundle.path}")
    return dict(sorted(found.items(), key=lambda item: FIRST.index(engine_of(item[1]))))


def not_judged(bundle: Bundle) -> dict[str, UserError]:
    """int8 bodies whose engine computes the float32 body wrong, with the reason: int8 would be blamed for it."""
    bodies = bundle.manifest.bodies
    names = [name for name, body in bodies.items() if body.precision == "int8" and engine_of(body) == ON_OPENVINO]
    error = _error_of_openvino(bundle.path, bodies["float32"].graph.file) if names and "float32" in bodies else None
    return {} if error is None else dict.fromkeys(names, error)


@cache
def _error_of_openvino(path: Path, graph: str) -> UserError | None:
    """Why OpenVINO does not run the float32 body, whose graph names its content, as onnxruntime does."""
    try:
        openvino.OpenVino().check(open_bundle(path))
    except UserError as error:
        return error
    return None


def open_body(bundle: Bundle, name: str, threads: int) -> Sampler:
    """A body on its engine, fused as it is deployed, or with Q/DQ kept, which simulates another engine's numerics."""
    body = bundle.body(name)
    if body.precision == "int8" and engine_of(body) == ON_OPENVINO:
        return load(bundle.path, body=name, backend=openvino.OpenVino(threads=threads))
    fused = body.precision != "int8" or is_native(body)
    return load(bundle.path, body=name, backend=OnnxRuntime(threads=threads, fuse_qdq=fused))


def judged_plan(reference: Sampler, body: Body, plan: str = "", guidance: float | None = None) -> Plan:
    """The plan asked for, or else the one that the body was calibrated along, guidance included."""
    calibrated = calibrated_plan(reference.bundle, body)
    if calibrated is None:
        return reference.compile(plan or body.plan or PLAN, guidance)
    asked = calibrated.guidance if guidance is None else as_guidance(guidance)
    if plan in ("", calibrated.name) and asked == calibrated.guidance:
        return reference.compile(calibrated)
    return reference.compile(plan or calibrated.name, asked)
