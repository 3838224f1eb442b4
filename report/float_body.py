"""Explain why an int8 body has no operation in int8, and what to do, and why graphs of its call stay in float32."""

from collections.abc import Iterator

from fewstep.calibration.recorded_options import find_float_criteria
from fewstep.runtime.backends import CONDITIONER
from fewstep.runtime.bundle.manifest import Body, Manifest


def float_reason(manifest: Manifest, body: Body, share: float | None = None) -> str | None:
    """Return why an int8 body has no operation in int8, and what to do. None if it has some, if the number is unknown,
    or if the body is not an int8 body.

    share: the fraction of multiply-accumulates in int8 along the plan of interest; None if it is unknown.
    """
    covered = [graph.coverage for graph in body.graphs]
    is_float = share == 0 or all(coverage is not None and coverage.int8_macs == 0 for coverage in covered)
    if body.precision != "int8" or not is_float:
        return None
    reason, fix = "each operation costs more than it gains there", "deploy float32 itself"
    if criteria := find_float_criteria(manifest, body):
        reason, fix = f"{criteria} kept every operation in float", "calibrate with another limit, or without one"
    return f"no operation is in int8, so samples and speed are those of float32: {reason}; {fix}"


def describe_shared_graphs(manifest: Manifest, body: Body) -> Iterator[str]:
    """Yield a sentence for each reason why a body runs graphs in float32 that all bodies share, such as a decoder. Of a
    conditioner that encodes pictures, such as those of a policy's cameras, it names the pictures."""
    pictures = [condition.name for condition in manifest.conditions if condition.dtype == "uint8"]
    labels = {CONDITIONER: f"{CONDITIONER} (encodes {', '.join(pictures)})"} if pictures else {}
    for reason in dict.fromkeys(body.reasons.values()):
        names = [labels.get(name, name) for name, why in body.reasons.items() if why == reason]
        yield f"in float32: {', '.join(names)}: {reason}"
