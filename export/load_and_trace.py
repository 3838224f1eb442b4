"""Load a denoiser, trace it to graphs and record its outputs. Afterwards the denoiser need not stay in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from fewstep.export.expert import Expert
from fewstep.export.export_options import ExportPrecision
from fewstep.export.lora.slots import place_slots
from fewstep.export.resource_needs import estimate_needs
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import CompanionSource, Reference, Source, Spec
from fewstep.export.verification.points import Scope, comparison_points
from fewstep.export.verification.reuse import digest_verified, reusable_verification
from fewstep.export.verification.verify import ReferenceOutputs, Verification, record_reference
from fewstep.export.weights_only import BITS
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.weights import weight_bytes
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare
from fewstep.graph.resource_needs import check_needs
from fewstep.runtime.kinds.lora_slots import LoraSlots
from fewstep.runtime.progress import Progress

Evaluate = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]  # feeds by graph name -> the prediction
PrepareCheck = Callable[[Spec], Callable[[Evaluate], None]]  # reads samples for a spec -> checks a network with them
STAGES = 3  # stages: load, trace, prepare; verification then counts its points


@dataclass(frozen=True)
class Origin:
    """What a bundle stores about the source that it was exported from."""

    spec: Spec
    label: str
    sha256: str
    scheduler: Mapping[str, Any] | None
    companions: CompanionSource | None
    lora_slots: LoraSlots | None
    experts: tuple[Expert, ...] = ()
    component: str | None = None


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser as graphs, before and after the rewrites, and its outputs. `again` is a function that loads the
    original again.

    `expected` is a Verification if the bundle that is replaced has one for the same graphs; then nothing was run.
    `verified` is a digest of everything that a verification depends on.
    """

    origin: Origin
    exported: Graph
    prepared: PreparedDenoiser
    expected: ReferenceOutputs | Verification
    again: Callable[[], Reference]
    verified: str


def load_and_trace(
    load: Callable[[], Source],
    writer: Writer,
    progress: Progress,
    scope: Scope,
    precision: ExportPrecision,
    *more: str,
    check: PrepareCheck | None = None,
) -> LoadedDenoiser:
    """Load, trace and rewrite the denoiser. The original is run at all points of comparison, unless the bundle to be
    replaced has a verification that can be reused.

    `precision` is that of the body. `more` lists, as text, everything else on which a verification depends, such as
    versions. `check` raises UserError if the denoiser's outputs contradict its spec. It may evaluate the denoiser for
    minutes, so it prepares before the trace, and checks after it.

    Afterwards, the weights of a large denoiser are in files in the bundle's folder, or in those of the source if the
    body will have integers, and its memory can be garbage-collected; `again` loads it again. The graphs of a small
    denoiser share its weights.
    """
    source = load()
    if (needed := estimate_needs(source, precision)) is not None:
        check_needs(needed, writer)
    progress("export", 1, STAGES)
    check_outputs = None if check is None else check(source.spec)
    traced = source.trace()
    if check_outputs is not None:
        check_outputs(traced.reference.output)
    progress("export", 2, STAGES)
    prepared = prepare(traced.graph)
    progress("export", 3, STAGES)
    verified = digest_verified(source.spec, traced.graph, prepared, (precision, *more))
    expected = reusable_verification(writer, verified, scope) or record_reference(source.spec, traced, progress, scope)
    is_large = weight_bytes(traced.graph) > io.EXTERNAL_ABOVE
    parts = {field.name: graph for field in fields(prepared) if (graph := getattr(prepared, field.name)) is not None}
    exported = traced.graph
    if precision not in BITS:  # float32 weights are not written to the bundle, not even for a moment
        *kept, exported = io.offload_weights(writer, *parts.values(), traced.graph)
        prepared = replace(prepared, **dict(zip(parts, kept, strict=True)))
    slots = None if traced.lora_slots is None else place_slots(traced.lora_slots, parts)
    origin = Origin(
        source.spec,
        source.label,
        source.sha256,
        source.scheduler or source.spec.scheduler,
        source.companions,
        slots,
        source.experts if isinstance(source, TorchSource) else (),
        source.component if isinstance(source, TorchSource) else None,
    )
    reference = None if is_large else traced.reference

    def reload() -> Reference:
        return load().trace().reference if reference is None else reference

    return LoadedDenoiser(origin, exported, prepared, expected, reload, verified)


def module_evaluator(source: Source) -> Evaluate | None:
    """Return a function that runs a source's original module; None if the source must be traced first."""
    if not isinstance(source, TorchSource):
        return None
    from fewstep.export.verification.reference import prepare_module, run_module  # imports torch, unlike ONNX files

    prepare_module(source.module)
    return partial(run_module, source.module, source.spec)


def time_one_sample(source: Source) -> float | None:
    """Return the seconds that a source takes for one sample here, at the second call; None if it must be traced
    first."""
    evaluate = module_evaluator(source)
    if evaluate is None:
        return None
    point = next(iter(comparison_points(source.spec)))
    evaluate(point.feeds)
    started = perf_counter()
    evaluate(point.feeds)
    return perf_counter() - started
