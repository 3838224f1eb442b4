"""The int8 bodies of a bundle, opened for judging: each run as it is deployed, or its numerics simulated.

A target names the engine of its bodies and how to open them on it. Where this machine has that engine, it runs them.
onnxruntime computes all other bodies with their Q/DQ pairs kept in float: the 8-bit rounding is theirs, the rest is
float32.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from fewstep.lowering.scheme import Target
from fewstep.lowering.targets import targets_by_name
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.name import with_grid
from fewstep.plans.plan import Plan, regroup, shaping_of
from fewstep.rollouts.calibrated_plan import calibrated_plan
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, PORTABLE
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.fitted_plans import FITTED
from fewstep.runtime.loading import load
from fewstep.runtime.planning import plan_for
from fewstep.runtime.request import SCHEDULER
from fewstep.runtime.sampler import PLAN, Sampler

LOG = logging.getLogger("fewstep")
SIMULATION = "onnxruntime: 8-bit rounding simulated, the rest float32"  # of any other engine's body


def native_targets() -> dict[str, Target]:
    """The targets whose bodies onnxruntime runs as they are deployed, by name."""
    return {name: each for name, each in targets_by_name().items() if each.platform.backend == ONNXRUNTIME}


def is_run_by_onnxruntime(body: Body) -> bool:
    """True for bodies that onnxruntime runs as they are deployed, float32 too."""
    return body.target == PORTABLE or body.target in native_targets()


def engine_of(body: Body) -> str:
    """What computes a body here, in words."""
    target = _target_here(body)
    return SIMULATION if target is None else target.platform.label


def engine_and_version(body: Body) -> str:
    """What computes a body here, with the version of an engine beside onnxruntime, which all bodies need."""
    target = _target_here(body)
    if target is None or target.version is None:
        return engine_of(body)
    return f"{engine_of(body)} {target.version()}"


def backend_of(body: Body) -> str:
    """The name of the backend that computes a body here."""
    target = _target_here(body)
    return ONNXRUNTIME if target is None else target.platform.backend


def is_native(body: Body) -> bool:
    """True for bodies that run here as they are deployed."""
    return _target_here(body) is not None


def _target_here(body: Body) -> Target | None:
    """The target of a body whose engine is on this machine."""
    target = targets_by_name().get(body.target)
    if target is None or target.engine is None:
        return None
    return target if target.requires is None or _is_there(target.requires) else None


@cache
def _is_there(requires: Callable[[], object]) -> bool:
    """Tried once: an import that fails is searched for anew each time."""
    try:
        requires()
    except UserError:
        return False
    return True


def graph_files(body: Body) -> tuple[str, ...]:
    """The files of a body's graphs, which name their content."""
    return (body.graph.file, *(stage.graph.file for stage in body.stages))


def ranges_file(bundle: Bundle, body: Body) -> str | None:
    """The ranges table of a body: its own, or in bundles of earlier versions the only one."""
    return body.ranges or bundle.manifest.ranges


def ranges_files(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """The ranges tables of a bundle, each with the int8 bodies that were lowered by it, in the order of the bodies."""
    found: dict[str, tuple[str, ...]] = {}
    for name, body in bundle.manifest.bodies.items():
        file = ranges_file(bundle, body) if body.precision == "int8" else None
        if file is not None:
            found[file] = (*found.get(file, ()), name)
    return found


def int8_bodies(bundle: Bundle) -> dict[str, Body]:
    """Those that onnxruntime runs natively first, then those of other engines, then those that are simulated.

    Those that are `not_judged` are left out. UserError if no others are left.
    """
    found = {name: body for name, body in bundle.manifest.bodies.items() if body.precision == "int8"}
    refused = not_judged(bundle)
    if found and len(refused) == len(found):
        raise next(iter(refused.values()))
    found = {name: body for name, body in found.items() if name not in refused}
    if not found:
        raise UserError(f"{bundle.path} has no int8 body to judge", f"fewstep calibrate {bundle.path}")
    return dict(sorted(found.items(), key=lambda item: (not is_native(item[1]), backend_of(item[1]) != ONNXRUNTIME)))


def not_judged(bundle: Bundle) -> dict[str, UserError]:
    """int8 bodies whose engine computes the float32 body wrong, with the reason: int8 would be blamed for it."""
    found = {}
    for name, body in bundle.manifest.bodies.items():
        if body.precision == "int8" and "float32" in bundle.manifest.bodies:
            error = _float_error(bundle.path, bundle.manifest.bodies["float32"].graph.file, _target_here(body))
            if error is not None:
                found[name] = error
    return found


@cache
def _float_error(path: Path, graph: str, target: Target | None) -> UserError | None:
    """Why a target's engine does not run the float32 body, whose file name tells its content, as onnxruntime does."""
    if target is None or target.agrees is None:
        return None
    try:
        target.agrees(open_bundle(path))
    except UserError as error:
        return error
    return None


def open_body(bundle: Bundle, name: str, threads: int) -> Sampler:
    """A body on its engine, fused as it is deployed, or with Q/DQ kept, which simulates another engine's numerics."""
    body = bundle.body(name)
    backend = backend_of(body)
    if backend != ONNXRUNTIME:
        return load(bundle.path, body=name, backend=named(backend, threads))
    fused = body.precision != "int8" or is_native(body)
    return load(bundle.path, body=name, backend=OnnxRuntime(threads=threads, fuse_qdq=fused))


def judged_plan(reference: Sampler, body: Body, plan: str = "", guidance: float | None = None) -> Plan:
    """The plan asked for, or else the one that the body was calibrated along, guidance and shaping included.

    `fitted:N` is the plan that was fitted to the body, and float32 is compared along the same. A body without one takes
    that of float32.
    """
    calibrated = calibrated_plan(reference.bundle, body)
    if plan.startswith(FITTED):
        return _fitted(
            reference, body, plan, guidance if calibrated is None or guidance is not None else calibrated.guidance
        )
    if calibrated is None:
        return reference.compile(plan or body.plan or PLAN, guidance)
    asked = calibrated.guidance if guidance is None else as_guidance(guidance)
    name = with_grid(calibrated.name)
    own = ("", name, calibrated.name) if reference.bundle.manifest.grid is None else ("", name)
    if plan in own and asked == calibrated.guidance:
        return reference.compile(calibrated)
    shaping = None if plan.endswith(".json") or (plan or name).startswith(SCHEDULER) else shaping_of(calibrated)
    return reference.compile(plan or name, asked, shaping=shaping)


def _fitted(reference: Sampler, body: Body, name: str, guidance: float | Guidance | None) -> Plan:
    try:
        return regroup(plan_for(reference.bundle, body, name, guidance), reference.body.groups)
    except UserError as error:
        try:
            return reference.compile(name, guidance)
        except UserError:
            raise error from None


def judged_plans(
    reference: Sampler, bodies: Mapping[str, Body], plan: str = "", guidance: float | None = None
) -> dict[str, Plan]:
    """The plan of each body that is judged, the first body's `judged_plan` or, of `fitted:N`, its own at that guidance.

    Bodies that run plans which were fitted to another one are named in a warning.
    """
    first = judged_plan(reference, next(iter(bodies.values())), plan, guidance)
    found = dict.fromkeys(bodies, first)
    if first.fitted is None:
        return found
    for name, body in bodies.items() if plan.startswith(FITTED) else ():
        with suppress(UserError):  # it has none
            own = _fitted(reference, body, plan, first.guidance)
            if own.fitted is not None and own.fitted.body == name:
                found[name] = own
    if others := [name for name, each in found.items() if each is first and name != first.fitted.body]:
        told = first.name, first.fitted.body, ", ".join(others)
        LOG.warning("plan %s was fitted to %s, and is judged on %s: its gain may be smaller", *told)
    return found


def unmarked(plan: Plan) -> Plan:
    """A plan for float32 and a body that are compared along it, neither of which warns that it is another's."""
    return msgspec.structs.replace(plan, fitted=None)
