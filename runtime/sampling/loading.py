"""Open a bundle for sampling, and choose its body and backend."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, RUN_ONCE, Backend, LoadedGraph, find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY, needs_wide_sums, platform_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.denoiser import DenoiserNetworks
from fewstep.runtime.sampling.lazy_graphs import LazyGraph, Networks
from fewstep.runtime.sampling.network import Network
from fewstep.runtime.sampling.sampler import Sampler

if TYPE_CHECKING:
    from fewstep.runtime.sampling.whole_runs import WholeRuns

LOG = logging.getLogger("fewstep")
FLOAT = "float32"
PRECISIONS: tuple[str, ...] = get_args(get_type_hints(Body)["precision"])


def load(
    path: Path | str,
    precision: str | None = None,
    *,
    body: str | None = None,
    backend: Backend | None = None,
    resident: int | None = None,
    whole_runs: Sequence[Path | str] = (),
) -> Sampler:
    """Open a bundle for sampling.

    Args:
        path: the bundle's folder or file.
        precision: a precision of the bundle's bodies, such as "float32" or "int8". The backend selects the body of this
            precision that it runs best. None is float32 or, for a bundle without it, a precision that it has.
        body: the name of a body, instead of a precision, for measurements (e.g. "int8-tensorrt", simulated in float).
        backend: the inference engine and its settings; None is ONNX Runtime on the CPU.
        resident: for a bundle with several networks, how many to keep in memory at once; None keeps all. Each is opened
            when it is first used.
        whole_runs: files of `fewstep bake --unroll --batch N`, on the backends for ONNX Runtime on a CPU and on CUDA.
            `sample` runs such a file in place of the steps if it was baked for the same plan and number of samples, and
            if nothing needs the states between steps. A run with a hold needs a file with that `--hold`.

    Raises UserError if the bundle has no such body, or the backend does not run it.
    """
    bundle = open_bundle(path)
    if backend is None:
        backend = OnnxRuntime()
        if body in bundle.manifest.bodies and not any(body in names for names in backend.bodies.values()):
            LOG.warning(
                "body %r is for another engine: onnxruntime on the CPU simulates it slowly, for measurements only", body
            )
    elif not (hasattr(backend, "load") and hasattr(backend, "bodies")):
        raise UserError(
            f"backend {backend!r} is not an inference engine",
            "leave backend out for ONNX Runtime on the CPU, or pass one of fewstep.runtime.backends",
        )
    if resident is not None:
        check_integer("resident networks:", resident, 1)
    if whole_runs and bundle.manifest.networks:
        raise UserError("a bundle with several networks runs step by step", "leave whole_runs out")
    parts = _network_parts(bundle)
    bodies = {name: body or choose_body(part, precision, backend) for name, part in parts.items()}
    for name, part in parts.items():
        _warn_of_unsuited(part, bodies[name], backend)
    loaded = _load_networks(parts, bodies, backend, inf if resident is None else resident)
    return Sampler(loaded, whole_runs=_open_whole_runs(whole_runs, loaded, backend) if whole_runs else None)


def load_body(bundle: Bundle, name: str, backend: Backend) -> Sampler:
    """Load a body of a bundle, given by its name, on a backend. Raises UserError if the bundle has no such body, or if
    the backend cannot run it."""
    parts = _network_parts(bundle)
    return Sampler(_load_networks(parts, dict.fromkeys(parts, name), backend))


def _network_parts(bundle: Bundle) -> dict[str, Bundle]:
    """Return the bundle as each of its networks sees it."""
    return {name: bundle if name == DENOISER else bundle.select_network(name) for name in networks(bundle.manifest)}


def _load_networks(
    parts: Mapping[str, Bundle], bodies: Mapping[str, str], backend: Backend, resident: float = inf
) -> DenoiserNetworks:
    """Load the networks of a bundle, each with its body. If there are several, each is loaded at its first use, and at
    most `resident` of them are in memory at once."""
    parts = {name: part.with_graphs_of(bodies[name]) for name, part in parts.items()}
    if len(parts) == 1:
        return DenoiserNetworks({DENOISER: _load_network(parts[DENOISER], bodies[DENOISER], backend)})
    open_ones, loaded = Networks(resident), {}
    for name, part in parts.items():
        opened = partial(_open_lazily, parts=parts, network=name, open_ones=open_ones)
        loaded[name] = _load_network(part, bodies[name], backend, opened)
    return DenoiserNetworks(loaded)


def _open_lazily(
    bundle: Bundle, graph: str, backend: Backend, *, parts: Mapping[str, Bundle], network: str, open_ones: Networks
) -> LazyGraph:
    """Return a graph of a network that is loaded at its first call.

    A prologue or conditioner of several networks, such as a full and a light one, belongs to the first of them, so that
    its weights are in memory once.
    """
    if graph in RUN_ONCE:
        entry = find_graph(bundle, graph)
        network = next(name for name, part in parts.items() if getattr(part.manifest, graph) == entry)
    return LazyGraph(bundle, graph, backend, network, open_ones)


def _open_whole_runs(files: Sequence[Path | str], loaded: DenoiserNetworks, backend: Backend) -> "WholeRuns":
    from fewstep.runtime.sampling.whole_runs import open_runs  # seldom needed

    load_run = getattr(backend, "load_run", None)
    if load_run is None:
        what = f"backend {type(backend).__name__} does not support whole runs"
        raise UserError(what, "leave whole_runs out, or choose OnnxRuntimeCuda")
    network = loaded.networks[DENOISER]
    if isinstance(backend, OnnxRuntime):
        load_run = partial(load_run, wide_sums=needs_wide_sums(network.body.target, network.body.platform))
    return open_runs(files, network.bundle.manifest, network.body, load_run)


def _load_network(
    bundle: Bundle, name: str, backend: Backend, opened: Callable[[Bundle, str, Backend], LoadedGraph] | None = None
) -> Network:
    """Load the network that the bundle's manifest describes.

    opened: returns a graph that is loaded at its first call. Without it, all graphs are loaded now.
    """

    def load(graph: str) -> LoadedGraph:
        return backend.load(bundle, graph) if opened is None else opened(bundle, graph, backend)

    manifest = bundle.manifest
    return Network(
        bundle=bundle,
        body=bundle.body(name),
        graph=load(name),
        prologue=None if manifest.prologue is None else load(PROLOGUE),
        conditioner=None if manifest.conditioner is None else load(CONDITIONER),
        earlier=tuple(load(f"{name}/{i}") for i in range(len(bundle.body(name).graphs) - 1)),
        nulls={
            condition.name: bundle.null(condition)
            for condition in manifest.conditions
            if condition.null_file is not None
        },
    )


def _warn_of_unsuited(bundle: Bundle, name: str, backend: Backend) -> None:
    """Log a warning if a body does not suit this CPU, and the backend runs it as deployed."""
    if any(name in names for names in backend.bodies.values()):
        from fewstep.runtime.bundle.unsuited_bodies import describe_unsuited  # float bodies do not need it

        sentence = describe_unsuited(bundle, name)
        if sentence is not None:
            LOG.warning("%s", sentence)


def choose_body(bundle: Bundle, precision: str | None, backend: Backend) -> str:
    """Return the name of the body that a backend runs best for a precision. None is float32 or, for a bundle without
    it, the first precision of the backend that the bundle has, which the log names. Raises UserError if the bundle has
    none."""
    if precision is None:
        precision = _usual_precision(bundle, backend)
    if not isinstance(precision, str) or precision not in backend.bodies:
        runs = ", ".join(backend.bodies)
        if precision in PRECISIONS:
            others = "onnxruntime, openvino or tensorrt" if precision == "int8" else "onnxruntime-cuda or tensorrt"
            others = "onnxruntime or openvino" if precision in WEIGHTS_ONLY else others
            fix = f"choose one of {runs}, or a backend that has it: {others} (--backend on the command line)"
            raise UserError(f"backend {type(backend).__name__} has no {precision}", fix)
        near = [name for name in WEIGHTS_ONLY if name.startswith(f"{precision}-") and name in bundle.manifest.bodies]
        fix = f"the body is called {near[0]}: give that" if near else f"choose one of {runs}"
        raise UserError(f"unknown precision {precision!r}", fix)
    for name in backend.bodies[precision]:
        if name in bundle.manifest.bodies:
            return name
    wanted = backend.bodies[precision][0]
    fix = ""
    if precision in ("int8", *WEIGHTS_ONLY):
        from fewstep.runtime.bundle.calibrate_command import calibrate_fix  # only this error needs it

        fix = calibrate_fix(bundle, wanted)
    elif precision in ("float16", "bfloat16"):
        engine = getattr(backend, "name", None)  # a backend of the caller may have none
        fix = (
            f"fewstep build {quote_path(bundle.path)}{f' --backend {engine}' if engine else ''} --precision {precision}"
        )
    if "float32" not in bundle.manifest.bodies:  # `fewstep pack` left it out, so no body can be made from it
        bodies = bundle.manifest.bodies.values()
        others = " or ".join(sorted({body.precision for body in bodies}))
        wanting = [(platform_of(body.target, body.platform), body) for body in bodies if body.precision == precision]
        engines = sorted({each.target if platform is None else platform.backend for platform, each in wanting})
        fix = f"run it on {' or '.join(engines)}, its target (--backend on the command line)"
        if not engines:
            fix = f"choose precision {others} (--precision on the command line)"
    raise UserError(f"{bundle.path} has no {wanted} body, only {', '.join(bundle.manifest.bodies)}", fix)


def _usual_precision(bundle: Bundle, backend: Backend) -> str:
    """Return float32 or, if the bundle lacks it, the first precision of a backend that the bundle has."""
    bodies = bundle.manifest.bodies
    if FLOAT in bodies:
        return FLOAT
    there = (precision for precision, names in backend.bodies.items() if not bodies.keys().isdisjoint(names))
    precision = next(there, FLOAT)
    if precision != FLOAT:
        LOG.warning("%s has no float32 body: %s is run", bundle.path, precision)
    return precision
