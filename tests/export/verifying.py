"""The verification of an export in one call, with the reference still in memory."""

from fewstep.export.spec import Spec, TracedDenoiser
from fewstep.export.verification.points import Scope
from fewstep.export.verification.verify import Verification, compare, expect
from fewstep.graph.prologue import PreparedDenoiser


def verify(spec: Spec, traced: TracedDenoiser, prepared: PreparedDenoiser, scope: Scope = "full") -> Verification:
    """Run the reference, the exported and the prepared graph at every point; UserError at the first mismatch."""
    return compare(expect(spec, traced, scope=scope), traced.graph, prepared, lambda: traced.reference)
