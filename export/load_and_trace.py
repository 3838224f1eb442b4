"""Take a denoiser from its source: as graphs, and as what it returns. Behind it the denoiser need not be in memory."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from fewstep.export.spec import CompanionSource, Reference, Source, Spec
from fewstep.export.verify import ReferenceOutputs, expect
from fewstep.graph import io
from fewstep.graph.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare
from fewstep.graph.prologue import PreparedDenoiser
from fewstep.graph.weights import weight_bytes
from fewstep.runtime.progress import Progress

STAGES = 3  # load, trace, prepare; then verification counts its own points


@dataclass(frozen=True)
class Origin:
    """What a bundle says of its source, without the source."""

    spec: Spec
    label: str
    sha256: str
    scheduler: Mapping[str, Any] | None
    beside: CompanionSource | None


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser as graphs, before and after the rewrites, and what it returned; `again` gives it back."""

    origin: Origin
    exported: Graph
    prepared: PreparedDenoiser
    expected: ReferenceOutputs
    again: Callable[[], Reference]


def take(load: Callable[[], Source], writer: Writer, progress: Progress) -> LoadedDenoiser:
    """Load, trace, rewrite, and run the denoiser as it was given.

    The weights of a large one are then in files of the bundle's folder and no longer in memory: `again` loads it once
    more. The graphs of a small one share its weights.
    """
    taken = _taken(load, writer, progress)
    gc.collect()  # torch's graphs refer to themselves
    return taken


def _taken(load: Callable[[], Source], writer: Writer, progress: Progress) -> LoadedDenoiser:
    source = load()
    progress("export", 1, STAGES)
    traced = source.trace()
    progress("export", 2, STAGES)
    prepared = prepare(traced.graph)
    progress("export", 3, STAGES)
    expected = expect(source.spec, traced, progress)
    is_large = weight_bytes(traced.graph) > io.EXTERNAL_ABOVE
    parts = {field.name: graph for field in fields(prepared) if (graph := getattr(prepared, field.name)) is not None}
    *kept, exported = io.unload(writer, *parts.values(), traced.graph)
    prepared = replace(prepared, **dict(zip(parts, kept, strict=True)))
    origin = Origin(source.spec, source.label, source.sha256, source.scheduler, source.beside)
    again = partial(_loaded, load) if is_large else partial(_same, traced.reference)
    return LoadedDenoiser(origin, exported, prepared, expected, again)


def _loaded(load: Callable[[], Source]) -> Reference:
    return load().trace().reference


def _same(reference: Reference) -> Reference:
    return reference
