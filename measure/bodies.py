"""The bodies of a bundle to be compared with float32, and the files from which they were made."""

from functools import cache
from pathlib import Path

from fewstep.measure.body_backends import CHECKED_BACKENDS, backend_of, is_simulated
from fewstep.measure.sampling import FLOAT
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.networks import common_bodies
from fewstep.runtime.bundle.platforms import ONNXRUNTIME
from fewstep.runtime.bundle.reading import Bundle, open_bundle


def graph_files(body: Body) -> tuple[str, ...]:
    """Return the names of a body's graph files. Files with different content have different names."""
    return tuple(graph.file for graph in body.graphs)


def ranges_file(bundle: Bundle, body: Body) -> str | None:
    """Return the file of a body's table of activation ranges. Bundles of earlier versions have one table for all
    bodies. None for a body without ranges."""
    return body.ranges or bundle.manifest.ranges


def ranges_files(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """Return the files of activation ranges in a bundle, each with the names of the int8 bodies made from it, in the
    order of the bodies."""
    bodies: dict[str, tuple[str, ...]] = {}
    for name, body in bundle.manifest.bodies.items():
        file = ranges_file(bundle, body) if body.precision == "int8" else None
        if file is not None:
            bodies[file] = (*bodies.get(file, ()), name)
    return bodies


def int8_bodies(bundle: Bundle) -> dict[str, Body]:
    """Return the quantized bodies to compare with float32, by name: first those that onnxruntime runs, then those of
    other backends, then simulated ones.

    The bodies of `find_excluded_bodies` are left out. Raises UserError if no body is left.
    """
    bodies = {name: body for name, body in common_bodies(bundle.manifest).items() if body.is_quantized}
    refused = {name: error for name, error in find_excluded_bodies(bundle).items() if name in bodies}
    if bodies and len(refused) == len(bodies):
        raise next(iter(refused.values()))
    bodies = {name: body for name, body in bodies.items() if name not in refused}
    if not bodies:
        from fewstep.runtime.bundle.calibrate_command import calibrate_fix  # only this error needs it

        raise UserError(f"{bundle.path} has no int8 body to compare with float32", calibrate_fix(bundle))
    return dict(sorted(bodies.items(), key=lambda item: (is_simulated(item[1]), backend_of(item[1]) != ONNXRUNTIME)))


def find_excluded_bodies(bundle: Bundle) -> dict[str, UserError]:
    """Return the int8 bodies whose backend does not compute float32 correctly, each with the error. They are not
    compared with float32, because the backend's error would be attributed to int8."""
    errors = {}
    for name, body in bundle.manifest.bodies.items():
        if body.is_quantized and FLOAT in bundle.manifest.bodies:
            error = _float_error(bundle.path, bundle.manifest.bodies[FLOAT].graph.file, backend_of(body))
            if error is not None:
                errors[name] = error
    return errors


@cache
def _float_error(path: Path, graph: str, backend: str) -> UserError | None:
    """Return the error if a backend does not compute the float32 body as onnxruntime does, and None if it does, or if
    it needs no check. The file name `graph` identifies the graph's content in the cache."""
    if backend not in CHECKED_BACKENDS:
        return None
    from fewstep.runtime.backends.openvino import OpenVino

    try:
        OpenVino().check(open_bundle(path))
    except UserError as error:
        return error
    return None
