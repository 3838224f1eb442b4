"""The reason for which a body for int8 has no operation in int8, with what to do."""

from fewstep.calibration.recorded_options import find_float_criteria
from fewstep.runtime.bundle.manifest import Body, Manifest


def float_reason(manifest: Manifest, body: Body, share: float | None = None) -> str | None:
    """Return why a body runs in float32, as the end of a sentence about it. None if some operations are in int8, or if
    it is unknown.

    share: the share of multiply-accumulates in int8 along the plan of interest; None if it is unknown.
    """
    covered = [graph.coverage for graph in body.graphs]
    is_float = share == 0 or all(each is not None and each.int8_macs == 0 for each in covered)
    if body.precision != "int8" or not is_float:
        return None
    criteria = find_float_criteria(manifest, body)
    reason = (
        f"{criteria} kept every operation in float" if criteria else "each operation costs more than it gains there"
    )
    fix = f"calibrate with less than {criteria}, or without it" if criteria else "deploy float32 itself"
    return f"has no operation in int8, so it has the samples and the speed of float32: {reason}; {fix}"
