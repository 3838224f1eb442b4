"""The fastest engine of a body on this machine: measured once, then stored in the user's cache folder.

Every installed backend is tried. Backends on the CPU are also tried with one thread, since two threads may be slower if
other programs run. Each engine runs in a separate process. The best engine so far and the next one run the network in
turns (`duel.py`), and the slower one is closed. Before that, the outputs of each engine are compared with onnxruntime's
for the same body, so that an incorrect engine is never chosen. Without onnxruntime nothing is compared, and a warning
is logged.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import msgspec

from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.duel import run_duel
from fewstep.measure.speed.timed_process import ContenderDied, TimedProcess
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict
from fewstep.report.choosing.measurement_cache import cache_key, read_cached, write_cached
from fewstep.runtime.backends import Arrays, Backend, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import NOT_INSTALLED
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import random_feeds, relative_difference
from fewstep.runtime.backends.registry import NAMED, create_backend
from fewstep.runtime.bundle.networks import common_bodies, networks, setup_graphs
from fewstep.runtime.bundle.platforms import TENSORRT, WEIGHTS_ONLY, platform_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine.cpu import default_threads, usable_threads
from fewstep.runtime.machine.gpu import has_gpu
from fewstep.runtime.machine.packages import package_versions, this_onnxruntime
from fewstep.runtime.sampling.loading import choose_body

LOG = logging.getLogger("fewstep")
REFERENCE = "onnxruntime"  # the backend with which others are compared
LARGEST: dict[str, float] = {  # allowed difference from onnxruntime, relative to the largest output
    "float32": 1e-3,
    "float16": 2e-2,
    "bfloat16": 0.1,
    "int8": 0.1,
    **dict.fromkeys(WEIGHTS_ONLY, 0.1),
}
FARTHER = 1.5  # allowed ratio of an engine's int8 error to onnxruntime's, since engines round at other places
ROWS = "onnxruntime-rows"  # the backend with a row of the batch per thread
THREADED = ("onnxruntime", ROWS, "openvino")  # backends that are tried with several numbers of threads
BF16 = "openvino-bf16"  # its float type is coarser than requested, so it runs only bodies that were calibrated for it
LEFT_OUT = ("qnn",)  # an NPU, which x86 only emulates
BACKENDS = tuple(name for name in NAMED if name not in LEFT_OUT)


class TimedEngine(Strict, frozen=True):
    """A backend with its settings.

    threads: CPU threads of a call; 0 for one per physical core. milliseconds: the median of its calls; None if it was
    not measured. spinning: False if waiting threads sleep.
    """

    backend: str
    threads: int
    milliseconds: float | None
    spinning: bool = True


class _Running(NamedTuple):
    """An engine with its settings, and the process in which it runs a body."""

    engine: TimedEngine
    process: TimedProcess


def runnable_bodies(bundle: Bundle) -> tuple[str, ...]:
    """Return the names of the bodies that some backend can run, float32 first. The backend need not be installed."""
    names: dict[str, None] = {}
    for precision in LARGEST:
        for backend in BACKENDS:
            with suppress(UserError):
                body = choose_body(bundle, precision, create_backend(backend))
                if _is_precise_enough(bundle, body, backend):
                    names[body] = None
    return tuple(name for name in names if name in common_bodies(bundle.manifest))


def find_fastest_engine(
    bundle: Bundle,
    body: str,
    batch: int = 1,
    threads: int = 0,
    fewest_rows: int | None = None,
    backends: Sequence[str] = BACKENDS,
) -> TimedEngine:
    """Return the fastest engine of a body for calls of the network on `batch` rows of x. A call runs each network once.

    Args:
        batch: at least 1. OpenVINO compiles for this batch size while it loads.
        threads: CPU threads of a call. 0 tries one thread per physical core, one per core of this process if that
            differs, and a single thread, all within the CPU quota. It also tries onnxruntime with waiting threads that
            sleep, and with a row of the batch per thread.
        fewest_rows: the rows of the smallest call, if not all calls have `batch` rows. With a single row, a thread per
            row is not tried.
        backends: the names of the backends to try.

    The first call on a machine loads every backend. It measures each against the best so far until it is known to be
    faster or slower: for up to eight seconds, or for one round if a round takes longer. At most two engines are loaded
    at once. Later calls read the cache. Nothing is cached if a backend failed for a transient reason.

    Raises UserError if no engine runs the body.
    """
    sizes = {"batch": batch, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    fewest = batch if fewest_rows is None else fewest_rows
    found = read_fastest_engine(bundle, body, batch, threads, fewest, backends)
    if found is None:
        candidates = (engine for engine in candidate_engines(threads, fewest) if engine.backend in backends)
        found, refused = _measure_engines(bundle, body, candidates, sizes)
        if not any(map(_is_transient, refused.values())):
            write_cached(_engine_key(bundle, body, batch, threads, fewest, backends), found)
    return found


def read_fastest_engine(
    bundle: Bundle, body: str, batch: int, threads: int, fewest: int, backends: Sequence[str] = BACKENDS
) -> TimedEngine | None:
    """Return the cached result of `find_fastest_engine`, or None if there is none."""
    found = read_cached(_engine_key(bundle, body, batch, threads, fewest, backends), TimedEngine)
    return None if found is None or found.backend not in NAMED else found


def _engine_key(bundle: Bundle, body: str, batch: int, threads: int, fewest: int, backends: Sequence[str]) -> str:
    limited = () if backends == BACKENDS else (backends,)
    return cache_key(body_facts(bundle, body), batch, threads, fewest, *limited)


def count_engines(bundle: Bundle, body: str, batch: int, threads: int, fewest: int) -> int:
    """Return how many engines will be loaded for a body: those that can run it and are installed."""
    packages, sizes = package_versions(), {"batch": batch}
    return sum(
        _runs_body(bundle, body, engine, sizes)
        and (engine.backend in (REFERENCE, ROWS) or has_gpu() or engine.backend.partition("-")[0] in packages)
        for engine in candidate_engines(threads, fewest)
    )


def body_facts(bundle: Bundle, body: str) -> tuple[object, ...]:
    """Return everything that determines the outputs of a body: its manifest entry, its shapes and conditions, and the
    digests of its files and of those of the conditioner and the prologue."""
    entry, manifest = bundle.body(body), bundle.with_graphs_of(body).manifest
    setup = [graph for _, graph in setup_graphs(manifest)]
    takes = (manifest.x_shape, manifest.sizes, manifest.conditions)
    others = [
        (network.until, *body_facts(bundle.select_network(name), body)) for name, network in manifest.networks.items()
    ]
    return (entry, takes, setup, manifest.digests([*entry.graphs, *setup]), *others)


def make_backend(engine: TimedEngine, batch: int) -> Backend:
    """Create the backend with the settings of an engine, for calls on `batch` rows."""
    backend = fix_batch_size(create_backend(engine.backend, engine.threads), batch)
    return backend if engine.spinning else replace(cast(OnnxRuntime, backend), spinning=False)


def fix_batch_size(backend: Backend, batch: int) -> Backend:
    """Return the backend for calls on `batch` rows. OpenVINO compiles while it loads a graph, and then does so for this
    batch size only."""
    return replace(backend, batch=batch) if isinstance(backend, OpenVino) else backend


def lean_backend(backend: Backend) -> Backend:
    """Return the backend without a cache of compiled graphs: OpenVINO would map the cached file in addition to the
    weights."""
    return replace(backend, cached=False) if isinstance(backend, OpenVino) else backend


def engine_name(engine: TimedEngine) -> str:
    """Return the name of an engine with its settings: "openvino, 1 thread"."""
    count = f", {engine.threads} thread{'s' * (engine.threads > 1)}" if engine.threads else ""
    return f"{engine.backend}{count}{'' if engine.spinning else ' without spinning'}"


def _measure_engines(
    bundle: Bundle, body: str, candidates: Iterable[TimedEngine], sizes: dict[str, int]
) -> tuple[TimedEngine, dict[str, UserError]]:
    """Return the fastest engine, and the errors of backends that failed. The best so far is timed against each other
    candidate, and the slower one is closed before the next is loaded."""
    for part in map(bundle.select_network, networks(bundle.manifest)):
        part.graph(find_graph(part, body))  # raises UserError for a damaged graph, before any backend is blamed
    refused: dict[str, UserError] = {}  # by backend, since its other settings would fail too
    here = this_onnxruntime()
    if here is None or here.error:
        LOG.warning("onnxruntime cannot be imported, so the outputs of other engines are not checked against it")
        check = None
    else:
        check = _Check(bundle, body, sizes)
    best: _Running | None = None
    with ExitStack() as stack:  # closes the open processes after an error
        for engine in candidates:
            if engine.backend in refused or not _runs_body(bundle, body, engine, sizes):
                continue
            try:
                rival = _Running(engine, stack.enter_context(open_process(bundle, body, engine, sizes, check)))
            except UserError as error:
                refused[engine.backend] = error
                continue
            if best is None:
                best = rival
                continue
            try:
                met = run_duel(best.process.median_milliseconds, rival.process.median_milliseconds)
            except UserError as error:
                failed, best = (best, rival) if best.process.has_failed else (rival, best)
                refused[failed.engine.backend] = error
                failed.process.close()
                continue
            best, rival = _set_milliseconds(best, met.first), _set_milliseconds(rival, met.second)
            if met.ratio < 1:
                best, rival = rival, best
            rival.process.close()
        if best is None:
            raise _explain_no_engine(bundle, body, refused)
        if best.engine.milliseconds is None:
            best = _set_milliseconds(best, best.process.median_milliseconds())
    return best.engine, refused


def open_process(
    bundle: Bundle, body: str, engine: TimedEngine, sizes: dict[str, int], check: "_Check | None" = None
) -> TimedProcess:
    """Start the process of an engine, and call and check it once."""
    return _start_process(bundle, body, engine, sizes, False, check)


def open_lean_process(bundle: Bundle, body: str, engine: TimedEngine, sizes: dict[str, int]) -> TimedProcess:
    """Start the process of an engine that holds each network only once in memory, and call it once.

    OpenVINO's results are not compared with onnxruntime's, because the comparison loads the float network too. Its
    compiled graph is not cached, because OpenVINO would map the cached file in addition to the weights.
    """
    return _start_process(bundle, body, engine, sizes, True, None)


def _start_process(
    bundle: Bundle, body: str, engine: TimedEngine, sizes: dict[str, int], lean: bool, check: "_Check | None"
) -> TimedProcess:
    process = TimedProcess(engine_name(engine), partial(make_network_calls, bundle, body, engine, sizes, lean))
    try:
        outputs = process.run_call()
        if check is not None:
            check(engine.backend, outputs)
    except BaseException:
        process.close()
        raise
    return process


def _set_milliseconds(running: _Running, milliseconds: float) -> _Running:
    return running._replace(engine=msgspec.structs.replace(running.engine, milliseconds=milliseconds))


def _runs_body(bundle: Bundle, body: str, engine: TimedEngine, sizes: dict[str, int]) -> bool:
    """Return whether a backend would select this body for its precision, and computes it in a sufficiently precise
    type."""
    with suppress(UserError):
        if not _is_precise_enough(bundle, body, engine.backend):
            return False
        return choose_body(bundle, bundle.body(body).precision, make_backend(engine, sizes["batch"])) == body
    return False


def _is_precise_enough(bundle: Bundle, body: str, backend: str) -> bool:
    """Return False if a backend computes in bfloat16 but the body was not calibrated for that, because its samples in
    bfloat16 have not been compared with float32."""
    platform = platform_of(bundle.body(body).target, bundle.body(body).platform)
    return backend != BF16 or (platform is not None and platform.backend == BF16)


def _is_transient(error: UserError) -> bool:
    """Return whether a failure may not recur: the process died, or memory was short."""
    return isinstance(error, ContenderDied) or "memory" in str(error)


def _explain_no_engine(bundle: Bundle, body: str, refused: Mapping[str, UserError]) -> UserError:
    """Return the error for a body that no engine can run: the error of one engine, preferably an installed one for the
    body's platform. With `--verbose`, the errors of all are logged."""
    for name, error in refused.items():
        LOG.info("%s does not run %s: %s", name, body, error)
    own = bundle.body(body)
    platform = platform_of(own.target, own.platform)
    home = REFERENCE if platform is None else platform.backend
    if home == TENSORRT.backend and not has_gpu():  # no package of an engine would help
        return UserError(f"{body} of {bundle.path} runs on NVIDIA GPUs only, and nvidia-smi lists none here", "")
    if not refused:
        return UserError(
            f"choose does not time any engine that runs {body} of {bundle.path}", "load it by its name: load(body=...)"
        )
    first = min(refused, key=lambda name: (NOT_INSTALLED in refused[name].what, name != home))
    what = f"no engine here runs {body} of {bundle.path}: {first}: {refused[first].what}"
    return UserError(what, f"{refused[first].fix} (other engines: --verbose)".lstrip())


def make_network_calls(
    bundle: Bundle, body: str, engine: TimedEngine, sizes: dict[str, int], lean: bool = False
) -> dict[str, Call]:
    """Return a function that runs all networks of a bundle once on an engine, one after the other. With `lean`, the
    engine holds each network in memory only once (`open_lean_process`). The function is called in a separate
    process."""
    backend = make_backend(engine, sizes["batch"])
    load = replace(backend, cached=False).open if lean and isinstance(backend, OpenVino) else backend.load
    each = [bundle.select_network(name) for name in networks(bundle.manifest)]
    loaded = [load(part, body) for part in each]
    feeds = [random_feeds(find_graph(part, body), sizes, 0) for part in each]
    return {"": partial(_run_networks, loaded, feeds)}


def candidate_engines(threads: int, fewest_rows: int) -> Iterator[TimedEngine]:
    """Yield the backends to try, each with several numbers of threads, for calls of at least `fewest_rows` rows. Some
    may not be installed, which is found out when they are loaded."""
    cores, default = usable_threads(), default_threads()
    counts, sleeping = [threads], 0
    if not threads and cores > 1:
        counts += [cores] * (cores != default) + [1] * (default != 1)
        sleeping = cores if default == 1 else 0
    for name in BACKENDS:
        tried = counts if name in THREADED else [0]
        if name == ROWS:  # a single row, or a single thread, has nothing to share
            tried = [count for count in counts if count != 1 and fewest_rows > 1 and cores > 1]
        yield from (TimedEngine(name, count, None) for count in tried)
        if name == REFERENCE and len(counts) > 1:  # a single thread never waits
            yield TimedEngine(name, sleeping, None, spinning=False)


class _Check:
    """Compare the outputs of engines with onnxruntime's on equal inputs.

    Raises UserError if they differ. An int8 engine may differ if its error against float32 is about as large as
    onnxruntime's: for coarse int8 a single rounding is a large difference, and the quality of samples decides.
    """

    def __init__(self, bundle: Bundle, body: str, sizes: dict[str, int]) -> None:
        self._bundle, self._body, self._sizes = bundle, body, sizes
        self._expected: dict[str, Arrays] = {}  # onnxruntime's outputs, by body

    def __call__(self, backend: str, outputs: Arrays) -> None:
        if backend == REFERENCE:
            self._expected.setdefault(self._body, outputs)
            return
        body, expected = self._bundle.body(self._body), self._reference_outputs(self._body)
        difference = relative_difference(expected, outputs)
        if difference <= LARGEST[body.precision]:
            return
        if body.is_quantized and "float32" in self._bundle.manifest.bodies:
            exact = {name: value for name, value in self._reference_outputs("float32").items() if name in expected}
            if relative_difference(exact, outputs) <= FARTHER * relative_difference(exact, expected):
                return
        raise UserError(
            f"its outputs differ from onnxruntime's by {difference:.2g} of the largest output", "use another backend"
        )

    def _reference_outputs(self, body: str) -> Arrays:
        if body not in self._expected:
            opener = partial(make_network_calls, self._bundle, body, TimedEngine(REFERENCE, 0, None), self._sizes)
            with TimedProcess(REFERENCE, opener) as process:
                self._expected[body] = process.run_call()
        return self._expected[body]


def _run_networks(loaded: Sequence[LoadedGraph], feeds: Sequence[Arrays]) -> Arrays:
    """Run the networks of a bundle one after the other, and return all their outputs."""
    calls = enumerate(zip(loaded, feeds, strict=True))
    return {f"{number}.{name}": each for number, (network, fed) in calls for name, each in network(fed).items()}
