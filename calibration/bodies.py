"""The int8 bodies of a bundle, opened for judging: each run as it is deployed, or its numerics simulated.

onnxruntime runs bodies for its own targets natively. Those of other engines it computes with their Q/DQ pairs kept in
float: the 8-bit rounding is theirs, the rest is float32.
"""

from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import Bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.guidance import as_guidance
from fewstep.runtime.loading import load
from fewstep.runtime.manifest import Body
from fewstep.runtime.plan import Plan
from fewstep.runtime.plan_file import decode
from fewstep.runtime.sampler import PLAN, Sampler

NATIVE = ("cpu-x86", "cpu-x86-7bit", "cpu-arm")  # targets whose bodies onnxruntime runs as they are deployed
ENGINE = "onnxruntime"
SIMULATION = "onnxruntime: 8-bit rounding simulated, the rest float32"  # of any other engine's body


def is_native(body: Body) -> bool:
    """True for bodies that onnxruntime runs as they are deployed."""
    return body.target in NATIVE


def engine_of(body: Body) -> str:
    """What computes a body here, in words."""
    return ENGINE if is_native(body) else SIMULATION


def graph_files(body: Body) -> tuple[str, ...]:
    """The files of a body's graphs, which name their content."""
    return (body.graph.file, *(stage.graph.file for stage in body.stages))


def int8_bodies(bundle: Bundle) -> dict[str, Body]:
    """Those that run here natively first."""
    found = {name: body for name, body in bundle.manifest.bodies.items() if body.precision == "int8"}
    if not found:
        raise UserError(f"{bundle.path} has no int8 body to judge", f"fewstep calibrate {bundle.path}")
    return dict(sorted(found.items(), key=lambda item: not is_native(item[1])))


def open_body(bundle: Bundle, name: str, threads: int) -> Sampler:
    """A body on onnxruntime: fused as it is deployed, or with Q/DQ kept, which simulates another engine's numerics."""
    body = bundle.body(name)
    fused = body.precision != "int8" or is_native(body)
    return load(bundle.path, body=name, backend=OnnxRuntime(threads=threads, fuse_qdq=fused))


def judged_plan(reference: Sampler, body: Body, plan: str = "", guidance: float | None = None) -> Plan:
    """The plan asked for, or else the one that the body was calibrated along, guidance included."""
    file = reference.bundle.manifest.plans.get(body.plan or "")
    if file is None:
        return reference.compile(plan or body.plan or PLAN, guidance)
    calibrated = decode(reference.bundle.read(file), file)
    asked = calibrated.guidance if guidance is None else as_guidance(guidance)
    if plan in ("", calibrated.name) and asked == calibrated.guidance:
        return reference.compile(calibrated)
    return reference.compile(plan or calibrated.name, asked)
