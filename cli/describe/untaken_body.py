"""The int8 body that a command without --precision does not run, and how to run it."""

from collections.abc import Iterable, Iterator

from fewstep.cli.describe.trials import describe_trials
from fewstep.report.call_time import valid_calls
from fewstep.report.judgement import GOOD, LOOK, UNUSABLE
from fewstep.runtime.backends import Backend
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import common_bodies, networks
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, platform_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.loading import FLOAT

OTHER_ENGINES = ("openvino",)  # on CPUs, besides ONNX Runtime


def describe_untaken(bundle: Bundle, precision: str | None, backend: Backend) -> Iterator[str]:
    """Yield a line on the int8 body that a backend would run, if a command took float32 because it got no precision:
    its verdict, its speed on the machine that calibrated it, and the option. Nothing if not all networks have it."""
    names, common = backend.bodies.get("int8", ()), common_bodies(bundle.manifest)
    name = next((name for name in names if name in common), None)
    if precision is not None or name is None or FLOAT not in bundle.manifest.bodies:
        return
    verdict = _worst_verdict(bundle, name)
    judged = "" if verdict is None else f", judged {verdict.lower()!r}"
    call = next((call for call in valid_calls(bundle.manifest) if call.body == name), None)
    speed = "" if call is None else f", {call.speedup:.2f}x as fast on {call.processor}"
    yield f"float32 runs, since no --precision was given: --precision int8 runs {name}{judged}{speed}"


def describe_ways_to_run(manifest: Manifest, names: Iterable[str]) -> Iterator[str]:
    """Yield a line with the options that run bodies on a CPU, which a run without them does not take."""
    options = list[str]()
    for name in names:
        body = manifest.bodies[name]
        platform = platform_of(body.target, body.platform)
        engine = None if platform is None else platform.backend
        if engine in (ONNXRUNTIME, *OTHER_ENGINES):
            options.append(f"--precision {body.precision}{'' if engine == ONNXRUNTIME else f' --backend {engine}'}")
    if options and FLOAT in manifest.bodies:
        yield f"fewstep run takes float32, unless you give {' or '.join(dict.fromkeys(options))}"


def _worst_verdict(bundle: Bundle, name: str) -> str | None:
    """Return the verdict on a body, of several networks the worst one; None if it was not judged."""
    of_networks = (bundle.select_network(network).body(name).trials for network in networks(bundle.manifest))
    lines = [line for trials in of_networks for line in describe_trials(trials)]
    words = [word for word in (GOOD, LOOK, UNUSABLE) if any(line.startswith(f"{word}:") for line in lines)]
    return words[-1] if words else None
