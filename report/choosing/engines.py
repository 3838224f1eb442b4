"""The fastest engine of a body on this machine: measured once, then kept in the user's cache folder.

Every backend that is installed is tried, those on the CPU also with one thread: beside other programs two threads may
take longer than one. Each has a process of its own. The best so far and the next run the network in turns (`duel.py`),
and the slower one is closed. Before that, one call of each is compared with onnxruntime's of the same body: a wrong
engine is never chosen. Without onnxruntime there is nothing to compare with, and a warning says so.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from fewstep.measure.speed.duel import duel
from fewstep.measure.speed.turns import ContenderDied, TimedProcess
from fewstep.measure.speed.worker import Call
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict
from fewstep.report.choosing.kept import keep, kept, kept_name
from fewstep.runtime.backends import Arrays, Backend, LoadedGraph, graph_of
from fewstep.runtime.backends.named import NAMED, named
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import drawn, largest
from fewstep.runtime.bundle.networks import networks, whole_bodies
from fewstep.runtime.bundle.platforms import platform_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body
from fewstep.runtime.machine.cpu import physical_cores, this_cpu
from fewstep.runtime.machine.packages import RUNTIMES, this_onnxruntime, version_of
from fewstep.runtime.sizes import defaults

LOG = logging.getLogger("fewstep")
REFERENCE = "onnxruntime"  # the backend that others are compared with
LARGEST = {
    "float32": 1e-3,
    "float16": 2e-2,
    "bfloat16": 0.1,
    "int8": 0.1,
}  # difference from onnxruntime, of the largest output
FARTHER = 1.5  # times as far from float32 as onnxruntime's int8: engines round at other places
PACKAGES_OF = {  # of backends that are not named after theirs
    "onnxruntime": RUNTIMES,
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "openvino-bf16": ("openvino",),
    "qnn": ("onnxruntime-qnn",),
}
ON_CPU = ("onnxruntime", "openvino")  # backends that have threads
LEFT_OUT = ("openvino-bf16", "qnn")  # a coarser float than was asked for; times of an NPU that x86 plays


class TimedEngine(Strict, frozen=True):
    """A backend with its settings. milliseconds: the median of its calls, None where `reason` says why it cannot
    be.

    threads: of a call on the CPU; 0 for one per physical core. spinning: False where waiting threads sleep.
    may_pass: it loaded and its call failed, its process died, its graph is damaged, or it lacked memory to load. The
        next time it may not.
    """

    backend: str
    threads: int
    milliseconds: float | None
    reason: str = ""
    may_pass: bool = False
    spinning: bool = True


@dataclass(frozen=True)
class _Tried:
    """A backend that runs a body in a process, where it was called, or the error for which it is left out. is_own: the
    body is the one that it would run of this precision."""

    timed: TimedEngine
    process: TimedProcess | None = None
    error: UserError | None = None
    is_own: bool = False

    @property
    def running(self) -> TimedProcess:
        assert self.process is not None
        return self.process

    def taking(self, milliseconds: float) -> "_Tried":
        return replace(self, timed=msgspec.structs.replace(self.timed, milliseconds=milliseconds))

    def left_out(self, error: UserError, may_pass: bool = False) -> "_Tried":
        if self.process is not None:
            self.process.close()
        may_pass = may_pass or isinstance(error, ContenderDied) or "memory" in str(error)
        timed = msgspec.structs.replace(self.timed, reason=str(error), may_pass=may_pass)
        return replace(self, timed=timed, error=error)


def bodies_here(bundle: Bundle) -> tuple[str, ...]:
    """The bodies of a bundle that some backend would run, float32 first: whether it is installed shows later."""
    names: dict[str, None] = {}
    for precision in LARGEST:
        for backend in (name for name in NAMED if name not in LEFT_OUT):
            with suppress(UserError):
                names[choose_body(bundle, precision, named(backend))] = None
    return tuple(name for name in names if name in whole_bodies(bundle.manifest))


def engines_of(bundle: Bundle, body: str, batch: int = 1, threads: int = 0) -> tuple[TimedEngine, ...]:
    """The engines of a body for calls of the network on `batch` rows of x: the fastest first, then those that were left
    out. Of several networks each is called once.

    Args:
        batch: at least 1. OpenVINO compiles for it while it loads.
        threads: of a call on the CPU; 0 tries one per physical core, one per core that this process may use where
            these differ, and one alone. It also tries onnxruntime with waiting threads that sleep.

    The first call on a machine loads every backend and measures each but the first until it is known to be faster or
    slower, for up to eight seconds, or for one round where that takes longer. At most two are loaded at once. Later
    ones read what was kept. Nothing is kept where a failure may pass. UserError where nothing runs the body.
    """
    sizes = defaults(bundle.manifest.x_shape, bundle.manifest.sizes)
    key = kept_name(body_facts(bundle, body), batch, threads)
    found = kept(key, tuple[TimedEngine, ...])
    if not found or found[0].backend not in NAMED:
        found = _measure(bundle, body, batch, threads, sizes)
        if not any(each.may_pass for each in found):
            keep(key, found)
    return found


def body_facts(bundle: Bundle, body: str) -> tuple[object, ...]:
    """All that a body computes by: its entry, the shapes and conditions that it takes, and the digests of its files and
    of those that run ahead."""
    entry, manifest = bundle.body(body), bundle.manifest
    ahead = [graph for graph in (manifest.conditioner, manifest.prologue) if graph is not None]
    takes = (manifest.x_shape, manifest.sizes, manifest.conditions)
    others = [(each.until, *body_facts(bundle.network(name), body)) for name, each in manifest.networks.items()]
    return (entry, takes, ahead, manifest.digests([*entry.graphs, *ahead]), *others)


def backend_of(engine: TimedEngine, batch: int) -> Backend:
    """The backend with the settings of an engine, for calls of so many rows."""
    backend = for_rows(named(engine.backend, engine.threads), batch)
    return backend if engine.spinning else replace(cast(OnnxRuntime, backend), spinning=False)


def for_rows(backend: Backend, batch: int) -> Backend:
    """The backend for calls on so many rows: one that compiles while it loads compiles for these alone."""
    return replace(backend, batch=batch) if isinstance(backend, OpenVino) else backend


def engine_name(engine: TimedEngine) -> str:
    """An engine in words: "openvino, 1 thread"."""
    count = f", {engine.threads} thread{'s' * (engine.threads > 1)}" if engine.threads else ""
    return f"{engine.backend}{count}{'' if engine.spinning else ' without spinning'}"


def _measure(bundle: Bundle, body: str, batch: int, threads: int, sizes: Mapping[str, int]) -> tuple[TimedEngine, ...]:
    """The best so far meets each other candidate; whichever is slower is closed before the next one is loaded."""
    refused: dict[str, _Tried] = {}  # by the backend: its other settings would fail too
    slower: list[TimedEngine] = []
    expected: list[Arrays] = []  # onnxruntime's outputs, once they are there
    engine = this_onnxruntime()
    is_compared = engine is not None and not engine.error
    if not is_compared:
        LOG.warning("onnxruntime is not installed, or not importable: no other engine is compared with it")
    best: _Tried | None = None
    with ExitStack() as stack:  # ends what is open behind an error
        for candidate in candidates(threads):
            if candidate.backend in refused:
                continue
            rival = _opened(
                bundle, body, candidate, {"batch": batch, **sizes}, expected if is_compared else None, stack
            )
            if rival.error is not None:
                refused[candidate.backend] = rival
            elif best is None:
                best = rival
            else:
                try:
                    met = duel(best.running.milliseconds, rival.running.milliseconds)
                except UserError as error:
                    failed, best = (best, rival) if best.running.has_failed else (rival, best)
                    refused[failed.timed.backend] = failed.left_out(error, may_pass=True)
                    continue
                best, rival = best.taking(met.first), rival.taking(met.second)
                if met.ratio < 1:
                    best, rival = rival, best
                slower.append(rival.timed)
                rival.running.close()
        if best is None:
            raise _nothing_runs(bundle, body, tuple(refused.values()))
        if best.timed.milliseconds is None:
            best = best.taking(best.running.milliseconds())
    slower.sort(key=lambda each: each.milliseconds or 0.0)
    return best.timed, *slower, *(each.timed for each in refused.values())


def _nothing_runs(bundle: Bundle, body: str, refused: Sequence[_Tried]) -> UserError:
    """The reason and the fix of one engine: of those that the body is for, one that is installed, and rather the one of
    its platform. `--verbose` prints the reasons of all."""
    for each in refused:
        LOG.info("%s does not run %s: %s", each.timed.backend, body, each.error)
    platform = platform_of(bundle.body(body).target)
    home = REFERENCE if platform is None else platform.backend
    first = max(
        [each for each in refused if each.is_own] or refused,
        key=lambda each: (_is_installed(each.timed.backend), each.timed.backend == home),
    )
    assert first.error is not None
    what = f"nothing here runs {body} of {bundle.path}: {first.timed.backend}: {first.error.what}"
    return UserError(what, f"{first.error.fix} (other engines: --verbose)")


def _is_installed(backend: str) -> bool:
    return any(version_of(package) for package in PACKAGES_OF.get(backend, (backend,)))


def _opened(
    bundle: Bundle,
    body: str,
    candidate: TimedEngine,
    sizes: dict[str, int],
    expected: list[Arrays] | None,
    stack: ExitStack,
) -> _Tried:
    """A candidate that was called once, or is left out. `expected` gets onnxruntime's outputs; None: no comparison."""
    precision, tried = bundle.body(body).precision, _Tried(candidate)
    try:
        if (preferred := choose_body(bundle, precision, backend_of(candidate, sizes["batch"]))) != body:
            raise UserError(f"it runs {preferred} in {precision}", f"have {body} run elsewhere")
        tried = replace(tried, is_own=True)
        opener = partial(calls, bundle.path, body, candidate, sizes)
        process = stack.enter_context(TimedProcess(engine_name(candidate), opener))
        tried = replace(tried, process=process)
        outputs = process.result()
    except UserError as error:
        is_open = tried.process is not None
        is_damaged = not is_open and any(_is_damaged(bundle.network(own), body) for own in networks(bundle.manifest))
        if is_damaged:
            LOG.warning("%s is left out: %s", candidate.backend, error)
        return tried.left_out(error, is_open or is_damaged)
    try:
        if expected is not None and not expected:
            expected.append(outputs if candidate.backend == REFERENCE else _imitated(bundle, body, sizes))
        if expected and candidate.backend != REFERENCE:
            exact = partial(_imitated, bundle, "float32", sizes)
            _check(precision, expected[0], outputs, exact if "float32" in bundle.manifest.bodies else None)
    except UserError as error:
        return tried.left_out(error)
    return tried


def calls(path: Path, body: str, engine: TimedEngine, sizes: dict[str, int]) -> dict[str, Call]:
    """The networks of a bundle on an engine, called one after the other: for a process of its own."""
    bundle, backend = open_bundle(path), backend_of(engine, sizes["batch"])
    each = [bundle.network(name) for name in networks(bundle.manifest)]
    loaded = [backend.load(part, body) for part in each]
    feeds = [drawn(graph_of(part, body), sizes, 0) for part in each]
    return {"": partial(_outputs, loaded, feeds)}


def _imitated(bundle: Bundle, body: str, sizes: dict[str, int]) -> Arrays:
    """onnxruntime's outputs of a body that is for another engine."""
    with TimedProcess(REFERENCE, partial(calls, bundle.path, body, TimedEngine(REFERENCE, 0, None), sizes)) as process:
        outputs: Arrays = process.result()
    return outputs


def _is_damaged(bundle: Bundle, body: str) -> bool:
    """True where the graph of a body that an engine did not load is another than the manifest records."""
    try:
        bundle.graph(graph_of(bundle, body))
    except UserError:
        return True
    return False


def candidates(threads: int) -> Iterator[TimedEngine]:
    """Backends with their threads, yet without a body. Which are installed shows when they load."""
    cores, physical = this_cpu().cores, physical_cores()
    counts, sleeping = [threads], 0
    if not threads and cores > 1:
        counts += [cores] * (cores != physical) + [1] * (physical != 1)
        sleeping = cores if physical == 1 else 0
    for name in (name for name in NAMED if name not in LEFT_OUT):
        yield from (TimedEngine(name, count, None) for count in (counts if name in ON_CPU else (0,)))
        if name == REFERENCE and len(counts) > 1:  # one thread alone waits for none
            yield TimedEngine(name, sleeping, None, spinning=False)


def _check(precision: str, expected: Arrays, outputs: Arrays, exact: Callable[[], Arrays] | None = None) -> None:
    """UserError where outputs differ from onnxruntime's. int8 on an engine may differ where it is about as near to
    float32 (`exact`): where int8 is coarse, one rounding more or less is a large difference, and samples judge it."""
    difference = largest(expected, outputs)
    if difference <= LARGEST[precision]:
        return
    if precision == "int8" and exact is not None:
        floats = {name: value for name, value in exact().items() if name in expected}
        if largest(floats, outputs) <= FARTHER * largest(floats, expected):
            return
    raise UserError(f"it differs from onnxruntime by {difference:.2g} of the largest output", "use another backend")


def _outputs(loaded: Sequence[LoadedGraph], feeds: Sequence[Arrays]) -> Arrays:
    """The outputs of the networks of a bundle, one after the other."""
    calls = enumerate(zip(loaded, feeds, strict=True))
    return {f"{number}.{name}": each for number, (network, fed) in calls for name, each in network(fed).items()}
