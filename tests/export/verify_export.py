"""The verification of an export in one call, with the reference still in memory."""

from fewstep.export.spec import Source, Spec, TracedDenoiser
from fewstep.export.verification.points import Scope
from fewstep.export.verification.verify import Verification, compare, record_reference
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.prepare import prepare


def verify(spec: Spec, traced: TracedDenoiser, prepared: PreparedDenoiser, scope: Scope = "full") -> Verification:
    """Compare the reference with the exported and the prepared graph at every point; UserError at the first
    mismatch.
    """
    return compare(record_reference(spec, traced, scope=scope), traced.graph, prepared, lambda: traced.reference)


def verify_source(source: Source) -> tuple[PreparedDenoiser, Verification]:
    """Return a source, traced and prepared, and the table of all comparisons."""
    traced = source.trace()
    prepared = prepare(traced.graph)
    return prepared, verify(source.spec, traced, prepared)
