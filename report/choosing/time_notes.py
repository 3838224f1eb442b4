"""Sentences on the times of a choice: those that were not measured now, the parts of a call that they lack, and an
engine that has no body."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from fewstep.measure.sampling import FLOAT
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.choosing.saved_choice import Deployment, today
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, OPENVINO, OPENVINO_BF16, platform_of, rank_platforms
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_calibration
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from fewstep.runtime.machine.cpu import this_cpu


def describe_times(
    bundle: Bundle, rows: Sequence[Deployment], time_once: Callable[[str], float | None]
) -> Iterator[str]:
    """Yield a sentence on bodies that were timed on another day, one on each body that is not among the deployments
    but whose call calibration timed, with machine and date, one on the text encoder and the decoder, which
    `time_once` times for a body, and one on an engine without a body."""
    earlier = defaultdict[str, dict[str, None]](dict)
    for row in rows:
        if row.day != today():
            earlier[row.day][row.body] = None
    for day, bodies in sorted(earlier.items()):
        where = f"timed on {day} on {this_cpu().name}"
        yield f"{', '.join(sorted(bodies))}: {where}, as multiples of a call of float32, which was timed again now"
    here, manifest = {row.body for row in rows}, bundle.manifest
    others = (call for call in valid_calls(manifest) if call.body not in here)
    yield from (f"not timed here: {describe_call(call, manifest.bodies[call.body])}" for call in others)
    replacing = [name for name in sorted(here) if manifest.bodies[name].replaces.keys() & {TEXT_ENCODER, DECODER}]
    whose_times = {FLOAT: "every other body" if replacing else "every body"} | {name: name for name in replacing}
    for name, whose in whose_times.items():
        if (milliseconds := time_once(name)) is not None:
            what = f"the text encoder and the decoder take {milliseconds:.3g} ms more"
            yield f"{what}, from a prompt to its picture, with {whose}"
    if (missing := describe_missing_body(bundle)) is not None:
        yield missing


def describe_missing_body(bundle: Bundle) -> str | None:
    """Return a sentence if OpenVINO is installed, but only ONNX Runtime has a body in int8."""
    bodies = bundle.manifest.bodies.values()
    platforms = list(filter(None, (platform_of(body.target, body.platform) for body in bodies)))
    backends = {platform.backend for platform in platforms if platform.precision == "int8"}
    if not backends.isdisjoint({OPENVINO.backend, OPENVINO_BF16.backend}) or ONNXRUNTIME not in backends:
        return None
    if find_spec("openvino") is None:
        return None
    target = rank_platforms(OPENVINO.backend, this_cpu())[0].name
    return f"not compared: OpenVINO, which is installed, has no int8 body; {describe_calibration(bundle, target)}"
