"""The fastest way to run a bundle on this machine: measured once, then kept in the user's cache folder.

    choice = fastest("bundle", "int8", batch=16)
    sampler = load("bundle", body=choice.body, backend=choice.backend)

Every backend that is installed is tried, those on the CPU also with one thread: beside other programs two threads may
take longer than one. The best so far and the next run the network in turns (`duel.py`), and the slower one is closed.
Before that, one call of each is compared with onnxruntime's of the same body: a wrong engine is never chosen. Without
onnxruntime there is nothing to compare with, and a warning says so.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import msgspec

import fewstep.machine
import fewstep.plans
import fewstep.runtime
from fewstep.evaluation.speed.duel import duel, milliseconds
from fewstep.machine import cache
from fewstep.machine.code_digest import code_of
from fewstep.machine.cpu import physical_cores, this_cpu
from fewstep.machine.gpu import these_gpus
from fewstep.machine.packages import installed, this_onnxruntime
from fewstep.plans.errors import UserError
from fewstep.plans.name import parse_plan_name, with_grid
from fewstep.plans.spec import Strict
from fewstep.runtime.backends import Arrays, Backend, LoadedGraph, graph_of
from fewstep.runtime.backends.named import NAMED, named
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import drawn, largest
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import choose_body
from fewstep.runtime.request import denoiser_facts
from fewstep.runtime.sizes import defaults, sized

LOG = logging.getLogger("fewstep")
SCHEMA = 5  # of what is kept, and how it is measured
AUTO = "auto"
REFERENCE = "onnxruntime"  # the backend that others are compared with
LARGEST = {"float32": 1e-3, "float16": 2e-2, "int8": 0.1}  # difference from onnxruntime, of the largest output
ON_CPU = ("onnxruntime", "openvino")  # backends that have threads
COARSER = ("openvino-bf16",)  # its float is not the precision that was asked for
KIND: cache.Kind = "fastest"
PACKAGES = (fewstep.machine, fewstep.plans, fewstep.runtime)  # whose code a choice follows from


class Timed(Strict, frozen=True):
    """A backend with its body. milliseconds: the median of its calls, None where `reason` says why it cannot
    be.

    threads: of a call on the CPU; 0 for one per physical core. spinning: False where waiting threads sleep.
    may_pass: it loaded and its call failed, its graph is damaged, or it lacked memory to load. The next time it may
        not.
    """

    backend: str
    threads: int
    body: str
    milliseconds: float | None
    reason: str = ""
    may_pass: bool = False
    spinning: bool = True


@dataclass(frozen=True)
class _Ready:
    """A backend that has loaded its body, and may be called."""

    timed: Timed
    call: Callable[[], object]

    def taking(self, milliseconds: float) -> "_Ready":
        return _Ready(msgspec.structs.replace(self.timed, milliseconds=milliseconds), self.call)


class KeptChoice(Strict, frozen=True):
    """What was measured on this machine, the chosen one first. name: of the bundle; sizes: of x, where they are free;
    day: in the form of ISO 8601."""

    schema: int
    machine: str
    name: str
    precision: str
    batch: int
    sizes: dict[str, int]
    day: str
    timed: tuple[Timed, ...]


@dataclass(frozen=True)
class Choice:
    """A backend that is ready to load the body; `kept` has what else was measured. file: where that lies, None where
    it is not kept; without it the next call measures again."""

    backend: Backend
    body: str
    kept: KeptChoice
    file: Path | None = None


def fastest(
    path: Path | str,
    precision: str = "float32",
    plan: str | None = None,
    batch: int = 1,
    threads: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> Choice:
    """The fastest backend for calls of the network on `batch` rows of x, and the body that it runs.

    Args:
        plan: bodies that were calibrated along another plan are left out, where one was along this.
        batch: at least 1. OpenVINO compiles for it while it loads.
        threads: of a call on the CPU; 0 tries one per physical core, one per core that this process may use where
            these differ, and one alone. It also tries onnxruntime with waiting threads that sleep.
        sizes: of x, where the bundle has free ones; each other one has its default.

    The first call on a machine loads every backend and measures each but the first until it is known to be faster or
    slower, for up to eight seconds, or for one round where that takes longer. At most two are loaded at once. Later
    ones read what was kept. Nothing is kept where a failure may pass. UserError where nothing runs the bundle, for a
    precision that it has no body of, or for a batch below 1.
    """
    if batch < 1:
        raise UserError(f"a batch of {batch}", "give at least 1")
    bundle = open_bundle(path)
    check_precision(bundle, precision)
    at = defaults(sized(bundle.manifest, sizes).x_shape, bundle.manifest.sizes)
    key = _key(bundle, precision, plan, batch, threads, at)
    kept = _read(key)
    is_kept = kept is not None
    if kept is None:
        kept = _measure(bundle, precision, plan, batch, threads, at)
        if not any(each.may_pass for each in kept.timed):
            cache.store(KIND, key, msgspec.json.encode(kept))
            is_kept = _read(key) is not None  # a cache that cannot be written says nothing
    best = kept.timed[0]
    return Choice(backend_of(best, batch), best.body, kept, cache.path(KIND, key) if is_kept else None)


def check_precision(bundle: Bundle, precision: str) -> None:
    """UserError where no engine could run the bundle in a precision: it has no such body."""
    if precision not in LARGEST:
        raise UserError(f"unknown precision {precision!r}", f"choose one of {', '.join(LARGEST)}")
    have = sorted({body.precision for body in bundle.manifest.bodies.values()})
    if precision not in have:
        makes = "calibrate {}" if precision == "int8" else "build {} --precision float16"
        fix = f"fewstep {makes.format(bundle.path)}"
        if "float32" not in have:  # nothing to make it from
            fix = f"choose precision {' or '.join(have)} (--precision on the command line)"
        raise UserError(f"{bundle.path} has no {precision} body", fix)


def kept_here() -> tuple[KeptChoice, ...]:
    """Every choice that was made on this machine with what is installed now, the latest last."""
    try:
        files = sorted(kept_in().glob("[0-9a-f]*"), key=lambda file: file.stat().st_mtime)
    except OSError:
        return ()
    here = _machine()
    choices = (_read(file.name) for file in files)
    return tuple(each for each in choices if each is not None and each.machine == here)


def kept_in() -> Path:
    """The folder of all choices. OSError where the user has no home."""
    return cache.folder() / KIND


def choice_line(kept: KeptChoice) -> str:
    """A choice in one line."""
    best, *others = kept.timed
    rest = ", ".join(_called(each) for each in others if each.milliseconds is not None)
    return f"{_called(best)}" + (f"; then {rest}" if rest else "")


def backend_of(timed: Timed, batch: int) -> Backend:
    """The backend that was timed, for calls of so many rows."""
    backend = for_rows(named(timed.backend, timed.threads), batch)
    return backend if timed.spinning else replace(cast(OnnxRuntime, backend), spinning=False)


def for_rows(backend: Backend, batch: int) -> Backend:
    """The backend for calls on so many rows: one that compiles while it loads compiles for these alone."""
    return replace(backend, batch=batch) if isinstance(backend, OpenVino) else backend


def _called(timed: Timed) -> str:
    threads = f", {timed.threads} thread{'s' * (timed.threads > 1)}" if timed.threads else ""
    spinning = "" if timed.spinning else " without spinning"
    return f"{timed.backend}{threads}{spinning} with {timed.body} {timed.milliseconds:.2f} ms a call"


def _measure(
    bundle: Bundle, precision: str, plan: str | None, batch: int, threads: int, sizes: dict[str, int]
) -> KeptChoice:
    """The best so far meets each other candidate; whichever is slower is closed before the next one is loaded."""
    refused: dict[str, Timed] = {}  # by the backend: its other settings would fail too
    slower: list[Timed] = []
    expected: dict[str, Arrays] = {}  # of a body: onnxruntime's outputs
    engine = this_onnxruntime()
    is_compared = engine is not None and not engine.error
    if not is_compared:
        LOG.warning("onnxruntime is not installed, or not importable: no other engine is compared with it")
    best: _Ready | None = None
    for candidate in _candidates(threads):
        if candidate.backend in refused:
            continue
        rival = _opened(bundle, precision, plan, candidate, {"batch": batch, **sizes}, expected, is_compared)
        if isinstance(rival, Timed):
            refused[rival.backend] = rival
        elif best is None:
            best = rival
        else:
            met = duel(best.call, rival.call)
            best, rival = best.taking(met.first), rival.taking(met.second)
            if met.ratio < 1:
                best, rival = rival, best
            slower.append(rival.timed)
        del rival  # which closes what lost
    if best is None:
        reasons = "; ".join(dict.fromkeys(f"{each.backend}: {each.reason}" for each in refused.values()))
        raise UserError(f"nothing here runs {bundle.path} in {precision} ({reasons})", "see fewstep doctor")
    if best.timed.milliseconds is None:
        best = best.taking(milliseconds(best.call))
    timed = (best.timed, *sorted(slower, key=lambda each: each.milliseconds or 0.0), *refused.values())
    day = time.strftime("%Y-%m-%d")
    return KeptChoice(SCHEMA, _machine(), bundle.manifest.name, precision, batch, sizes, day, timed)


def _opened(
    bundle: Bundle,
    precision: str,
    plan: str | None,
    candidate: Timed,
    sizes: dict[str, int],
    expected: dict[str, Arrays],
    is_compared: bool,
) -> _Ready | Timed:
    """A candidate that was called once, or why it is left out. `expected` gets onnxruntime's outputs of its body."""
    backend = backend_of(candidate, sizes["batch"])
    body, network = "", None
    try:
        body = _body(bundle, precision, plan, backend)
        network = backend.load(bundle, body)
        feeds = drawn(graph_of(bundle, body), sizes, 0)
        outputs = network(feeds)
    except UserError as error:
        is_damaged = bool(body) and network is None and _is_damaged(bundle, body)
        if is_damaged:
            LOG.warning("%s is left out: %s", candidate.backend, error)
        may_pass = network is not None or is_damaged or "memory" in str(error)
        return msgspec.structs.replace(candidate, body=body, reason=str(error), may_pass=may_pass)
    try:
        if candidate.backend == REFERENCE:
            expected.setdefault(body, outputs)
        elif is_compared:
            if body not in expected:
                expected[body] = OnnxRuntime().load(bundle, body)(feeds)
            _check(precision, expected[body], outputs)
    except UserError as error:
        return msgspec.structs.replace(candidate, body=body, reason=str(error))
    return _Ready(msgspec.structs.replace(candidate, body=body), _call(network, feeds))


def _is_damaged(bundle: Bundle, body: str) -> bool:
    """Whether the graph of a body that an engine did not load is another than the manifest records."""
    try:
        bundle.graph(graph_of(bundle, body))
    except UserError:
        return True
    return False


def _candidates(threads: int) -> Iterator[Timed]:
    """Backends with their threads, yet without a body. Which are installed shows when they load."""
    cores, physical = this_cpu().cores, physical_cores()
    counts, whole = [threads], 0
    if not threads and cores > 1:
        counts += [cores] * (cores != physical) + [1] * (physical != 1)
        whole = cores if physical == 1 else 0
    for name in (name for name in NAMED if name not in COARSER):
        yield from (Timed(name, count, "", None) for count in (counts if name in ON_CPU else (0,)))
        if name == REFERENCE and len(counts) > 1:  # one thread alone waits for none
            yield Timed(name, whole, "", None, spinning=False)


def _body(bundle: Bundle, precision: str, plan: str | None, backend: Backend) -> str:
    """The body that a backend would run. UserError if there is none, or if it is of another plan while one is not."""
    body = choose_body(bundle, precision, backend)
    calibrated = bundle.body(body).plan
    if plan is None or calibrated is None or _same(plan, calibrated, bundle):
        return body
    others = (each.plan for each in bundle.manifest.bodies.values() if each.precision == precision)
    if any(other is not None and _same(plan, other, bundle) for other in others):
        raise UserError(f"{body} was calibrated along {calibrated}", f"calibrate it along {plan}")
    return body


def _same(plan: str, kept: str, bundle: Bundle) -> bool:
    """Whether a name that was asked for means the plan of a name that the bundle keeps."""
    grid = denoiser_facts(bundle.manifest).grid
    try:
        return with_grid(parse_plan_name(plan, grid).text) == with_grid(parse_plan_name(kept).text)
    except UserError:  # a file, or the plan of a scheduler
        return plan == kept


def _check(precision: str, expected: Arrays, outputs: Arrays) -> None:
    """UserError where outputs differ from onnxruntime's."""
    difference = largest(expected, outputs)
    if difference > LARGEST[precision]:
        raise UserError(f"it differs from onnxruntime by {difference:.2g} of the largest output", "use another backend")


def _call(network: LoadedGraph, feeds: Arrays) -> Callable[[], object]:
    return lambda: network(feeds)


def _read(key: str) -> KeptChoice | None:
    """What was kept; None where nothing was, or nothing that this version reads."""
    content = cache.read(KIND, key)
    try:
        kept = None if content is None else msgspec.json.decode(content, type=KeptChoice)
    except msgspec.DecodeError:
        return None
    return (
        kept if kept is not None and kept.schema == SCHEMA and kept.timed and kept.timed[0].backend in NAMED else None
    )


def _machine() -> str:
    """Processor, GPUs, the versions of engines and fewstep's code: another of these measures again."""
    facts = (this_cpu(), [(gpu.name, gpu.driver) for gpu in these_gpus()], installed(), code_of(PACKAGES))
    return sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def _key(bundle: Bundle, precision: str, plan: str | None, batch: int, threads: int, sizes: dict[str, int]) -> str:
    """The name under which a choice is kept."""
    facts = (SCHEMA, _machine(), bundle.manifest.files, bundle.manifest.sizes, precision, plan, batch, threads, sizes)
    return sha256(msgspec.json.encode(facts)).hexdigest()[:32]
