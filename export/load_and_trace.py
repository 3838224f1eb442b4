"""Take a denoiser from its source: as graphs, and as what it returns. Behind it the denoiser need not be in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import Any

import msgspec

import fewstep.export
import fewstep.graph
import fewstep.plans
import fewstep.runtime
from fewstep.export.lora.slots import placed
from fewstep.export.needs import needs
from fewstep.export.spec import CompanionSource, Reference, Source, Spec
from fewstep.export.verification.points import Scope
from fewstep.export.verification.verify import ReferenceOutputs, Verification, expect
from fewstep.graph import io
from fewstep.graph.commit import Writer
from fewstep.graph.digest import digest, structure
from fewstep.graph.graph import Graph
from fewstep.graph.needs import check_needs
from fewstep.graph.prepare import prepare
from fewstep.graph.prologue import PreparedDenoiser
from fewstep.graph.weights import collect_behind, weight_bytes
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.lora_slots import LoraSlots
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.code_digest import code_of
from fewstep.runtime.progress import Progress

PACKAGES = (
    fewstep.export,
    fewstep.graph,
    fewstep.plans,
    fewstep.runtime,
)  # whose code makes the prepared graph of the exported one, and compares both
STAGES = 3  # load, trace, prepare; then verification counts its own points


@dataclass(frozen=True)
class Origin:
    """What a bundle says of its source, without the source."""

    spec: Spec
    label: str
    sha256: str
    scheduler: Mapping[str, Any] | None
    beside: CompanionSource | None
    lora_slots: LoraSlots | None


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser as graphs, before and after the rewrites, and what it returned; `again` gives it back.

    `expected` is a verification where the bundle that is replaced has one of the same graphs: nothing was run then.
    `verified` is a digest of all that a verification follows from.
    """

    origin: Origin
    exported: Graph
    prepared: PreparedDenoiser
    expected: ReferenceOutputs | Verification
    again: Callable[[], Reference]
    verified: str


def take(
    load: Callable[[], Source], writer: Writer, progress: Progress, scope: Scope, dtype: str, *more: str
) -> LoadedDenoiser:
    """Load, trace, rewrite, and run the denoiser as it was given, unless that was done before.

    `dtype` is of the body; `more` is all else that a verification depends on, in words: versions.

    The weights of a large one are then in files of the bundle's folder and no longer in memory: `again` loads it once
    more. The graphs of a small one share its weights.
    """
    taken = _taken(load, writer, progress, scope, dtype, more)
    collect_behind(taken.exported)
    return taken


def _taken(
    load: Callable[[], Source], writer: Writer, progress: Progress, scope: Scope, dtype: str, more: Sequence[str]
) -> LoadedDenoiser:
    source = load()
    if (needed := needs(source, dtype)) is not None:
        check_needs(needed, writer)
    progress("export", 1, STAGES)
    traced = source.trace()
    progress("export", 2, STAGES)
    prepared = prepare(traced.graph)
    progress("export", 3, STAGES)
    verified = _digest(source.spec, traced.graph, prepared, (dtype, *more))
    expected = _former(writer, verified, scope) or expect(source.spec, traced, progress, scope)
    is_large = weight_bytes(traced.graph) > io.EXTERNAL_ABOVE
    parts = {field.name: graph for field in fields(prepared) if (graph := getattr(prepared, field.name)) is not None}
    *kept, exported = io.unload(writer, *parts.values(), traced.graph)
    prepared = replace(prepared, **dict(zip(parts, kept, strict=True)))
    slots = None if traced.lora_slots is None else placed(traced.lora_slots, parts)
    origin = Origin(
        source.spec, source.label, source.sha256, source.scheduler or source.spec.scheduler, source.beside, slots
    )
    again = partial(_loaded, load) if is_large else partial(_same, traced.reference)
    return LoadedDenoiser(origin, exported, prepared, expected, again, verified)


def _digest(spec: Spec, exported: Graph, prepared: PreparedDenoiser, more: Sequence[str]) -> str:
    """A digest of what is compared, and of the code that compares it. Weights count once: the weights of the prepared
    graph follow from the exported graph and from the code."""
    hashed = sha256(repr((spec, more)).encode() + digest(exported) + code_of(PACKAGES))
    for field in fields(prepared):
        if (graph := getattr(prepared, field.name)) is not None:
            hashed.update(structure(graph))
    return hashed.hexdigest()


def _former(writer: Writer, verified: str, scope: Scope) -> Verification | None:
    """The verification of the bundle that is replaced, if it says as much of the same graphs."""
    manifest = writer.manifest
    if manifest is None or manifest.verification is None:
        return None
    try:
        verification = msgspec.json.decode(
            Bundle(writer.bundle, manifest).read(manifest.verification), type=Verification
        )
    except (UserError, msgspec.DecodeError):  # it is damaged, and will be replaced
        return None
    return verification if verification.verified == verified and verification.scope in ("full", scope) else None


def one_sample(source: Source) -> float | None:
    """Seconds that a source takes for one sample here, at the second call; None where it first has to be traced."""
    from fewstep.export.sources.torch_module import TorchSource

    if not isinstance(source, TorchSource):
        return None
    from fewstep.export.trace import example_inputs
    from fewstep.export.verification.reference import call  # torch: ONNX files need none

    module, example = source.module.eval().cpu().float(), example_inputs(source.spec, 1)
    call(module, source.spec, example)
    started = perf_counter()
    call(module, source.spec, example)
    return perf_counter() - started


def _loaded(load: Callable[[], Source]) -> Reference:
    return load().trace().reference


def _same(reference: Reference) -> Reference:
    return reference
