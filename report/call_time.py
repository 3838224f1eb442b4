"""The times of whole calls that calibration stored in a bundle, as text."""

from collections.abc import Iterator

from fewstep.measure.estimate import BUSY
from fewstep.runtime.backends import RUN_ONCE
from fewstep.runtime.bundle.manifest import Body, CallTime, Manifest

FASTER = 1.1  # speed relative to float32 at which int8 counts as faster
LEAST_SETUP = 0.1  # share of a call at which conditioner and prologue are named


def valid_calls(manifest: Manifest) -> Iterator[CallTime]:
    """Yield the times of calls whose bodies still have the files that were timed."""
    for call in manifest.calls:
        body = manifest.bodies.get(call.body)
        if body is not None and call.graphs == body_files(body):
            yield call


def body_files(body: Body) -> tuple[str, ...]:
    """Return the files of a body's graphs, and of those that it runs instead of shared ones."""
    return tuple(graph.file for graph in (*body.graphs, *body.replaces.values()))


def describe_busy(call: CallTime) -> str:
    """Return a clause on what the times of a call are on a busy machine; "" on an idle one."""
    if call.load < BUSY:
        return ""
    return f" by processor time, since other programs made work take {call.load:.1f} times as long"


def describe_call(call: CallTime, body: Body) -> str:
    """Return one line that says first whether a body is faster than float32: in the slowest of all rounds. It names the
    processor and the date, since a bundle may be on another machine now."""
    ratio, words = call.speedup, "faster" if call.slowest >= FASTER else "not clearly faster"
    where = f"{call.processor}, {call.day}" if call.day else call.processor
    busy = describe_busy(call)
    where, used = where + busy, " of processor time" if busy else ""
    sizes = f" at {', '.join(f'{name} {size}' for name, size in call.sizes.items())}" if call.sizes else ""
    line = (
        f"{call.body} is {words} on {where} ({ratio:.2f}x, rounds from {call.slowest:.2f} to {call.fastest:.2f}): "
        f"a whole call of {call.plan}{sizes} takes {_format(call.milliseconds)} ms{used}, "
        f"and {_format(call.float32)} ms in float32"
    )
    if call.companions is not None:
        line += f", of which the text encoder and the decoder take {_format(call.companions)} ms"
    if call.setup >= LEAST_SETUP:
        stay = "" if body.replaces.keys() & {*RUN_ONCE} else ", which stay in float32"
        line += f"; {100 * call.setup:.0f} % of it is the conditioner and the prologue{stay}"
    shares = [
        f"{100 * share:.0f} % of {what}"
        for what, share in (("the call's MACs", call.share_of_macs), ("the bytes of its files", call.share_of_bytes))
        if share is not None
    ]
    whose = "are in int8" if call.share_of_macs is not None else "are the body's"
    return f"{line}; {' and '.join(shares)} {whose}" if shares else line


def _format(milliseconds: float) -> str:
    return f"{milliseconds:.3g}"
