"""The cost of one evaluation of a bundle's engines, summarized in a few numbers for `fewstep build` and `fewstep
inspect`."""

from collections.abc import Mapping, Sequence

import msgspec

from fewstep.graph.engines.batches import BATCH
from fewstep.graph.engines.kernels import Kernels, kernels_of
from fewstep.graph.engines.time_bound import DEVICES, lower_bound
from fewstep.graph.half_types import HALVES
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import RUN_ONCE, find_graph
from fewstep.runtime.bundle.engine_files import read_sidecar
from fewstep.runtime.bundle.manifest import EngineEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import resolve_dimension


class EngineCost(msgspec.Struct, frozen=True):
    """The cost of one evaluation of an engine, at its preferred batch and sizes.

    kernels: number of kernels.
    bytes: bytes read and written; None if unknown.
    macs: number of MACs, by the type that is multiplied.
    bounds: lower bounds on the time in seconds, by device name. They are not measured.
    """

    batch: int
    kernels: int
    bytes: int | None
    macs: dict[str, int]
    bounds: dict[str, float]

    @property
    def int8_share(self) -> float:
        """The fraction of int8 in the counted MACs."""
        return self.macs.get("int8", 0) / max(sum(self.macs.values()), 1)

    @property
    def traffic_text(self) -> str:
        """The bytes as text."""
        return "unknown bytes" if self.bytes is None else f"{self.bytes / 1e6:.3g} MB"

    @property
    def text(self) -> str:
        """The cost as text."""
        share = 100 * self.int8_share
        return f"batch {self.batch}: {self.kernels} kernels, {self.traffic_text} a step, {share:.1f} % of MACs in int8"


def compute_cost(kernels: Kernels, batch: int, device: str) -> EngineCost:
    """Return the cost of an engine's kernels. `device` is the compute capability that it was built for."""
    bounds = {each.name: lower_bound(kernels, each) for each in DEVICES if each.kernels == device}
    known = {name: seconds for name, seconds in bounds.items() if seconds is not None}
    return EngineCost(batch, len(kernels.each), kernels.bytes, kernels.macs, known)


def read_costs(bundle: Bundle) -> dict[str, EngineCost]:
    """Return the costs of the engines of a bundle's bodies, by file name. Engines without a readable program text are
    left out: those of `tensorrt`, and damaged files."""
    found = {}
    for engine in bundle.manifest.engines:
        if engine.body not in RUN_ONCE:
            try:
                made = _read_cost(bundle, engine)
            except UserError:  # `verify` reports damaged files
                continue
            if made is not None:
                found[engine.file] = made
    return found


def cost_lines(engines: Sequence[EngineEntry], known: Mapping[str, EngineCost]) -> dict[str, tuple[str, ...]]:
    """Return each engine's cost and bounds as lines of text, by file. The lines of an int8 engine also compare it with
    the 16-bit engine of the same device and batch, and name the body with the lower bound."""
    halves = {(engine.device, known[engine.file].batch): engine for engine in engines if _is_half(engine, known)}
    lines: dict[str, tuple[str, ...]] = {}
    for engine in engines:
        if (cost := known.get(engine.file)) is not None:
            half = halves.get((engine.device, cost.batch))
            compared = "" if half is None or half is engine else f"; {half.body}: {_short(known[half.file])}"
            bounds = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in cost.bounds.items())
            bounded = (f"a bound, not a time: {bounds}",) if bounds else ()
            lines[engine.file] = (f"{cost.text}{compared}", *bounded, *_compare_bounds(engine, half, known))
    return lines


def _compare_bounds(engine: EngineEntry, half: EngineEntry | None, known: Mapping[str, EngineCost]) -> tuple[str, ...]:
    """Return lines that name, for each device, the body with the lower bound: that of the int8 `engine` or of its
    16-bit counterpart `half`."""
    if _is_half(engine, known) or not known[engine.file].int8_share:
        return ()
    if half is None:
        return (f"float16 may need less: build --precision float16 --device {engine.device} shows it for comparison",)
    devices: dict[str, list[str]] = {}
    for name, seconds in known[engine.file].bounds.items():
        body = engine if seconds < known[half.file].bounds.get(name, seconds) else half
        devices.setdefault(body.body, []).append(name)
    chosen = "; ".join(f"{body} on {', '.join(names)}" for body, names in devices.items())
    return (f"the lower bound has {chosen}",) if chosen else ()


def _is_half(engine: EngineEntry, known: Mapping[str, EngineCost]) -> bool:
    return engine.body in HALVES and engine.file in known


def _short(account: EngineCost) -> str:
    return f"{account.kernels} kernels, {account.traffic_text}"


def _read_cost(bundle: Bundle, engine: EngineEntry) -> EngineCost | None:
    key = read_sidecar(bundle, engine).built_from
    sizes = {name: preferred for name, (_, preferred, _) in {BATCH: key.batches, **key.sizes}.items()}
    inputs = find_graph(bundle, engine.body).inputs
    shapes = {tensor.name: tuple(resolve_dimension(size, sizes) for size in tensor.shape) for tensor in inputs}
    kernels = kernels_of(bundle.read(engine.file), shapes)
    return None if kernels is None else compute_cost(kernels, key.batches[1], engine.device)
