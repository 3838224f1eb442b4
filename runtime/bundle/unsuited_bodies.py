"""What a body loses on this CPU, and the command that makes one which suits it.

x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which the sum can exceed. There are targets whose pairs of
weights are limited so that it cannot.
"""

import re
from collections.abc import Iterable, Iterator

from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, Platform, platform_of, rank_platforms, suits
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.remake_commands import recalibrate_command
from fewstep.runtime.machine.cpu import Cpu, this_cpu

SLOWER = "without VNNI its 8-bit products are added in 32 bits, which is slower"
SATURATES = "without VNNI its 8-bit products are added in 16 bits, which saturates"


def describe_unsuited(bundle: Bundle, name: str) -> str | None:
    """Return a sentence about a body that does not suit this CPU, with the command that makes one which does. None for
    any other body."""
    body = bundle.body(name)
    platform = platform_of(body.target, body.platform)
    if platform is None or (loss := describe_loss(platform, this_cpu())) is None:
        return None
    return f"{name}: {loss}; {describe_calibration(bundle, _find_suited(platform), body.graph.file)}"


def describe_loss(platform: Platform, cpu: Cpu) -> str | None:
    """Return what the bodies of a platform lose on a CPU; None if they suit it."""
    if suits(platform, cpu):
        return None
    return SLOWER if platform.backend == ONNXRUNTIME else SATURATES


def describe_losses(bodies: Iterable[Body]) -> Iterator[str]:
    """Yield a sentence for each body that does not suit this CPU. It names the target, and no path."""
    for platform in filter(None, (platform_of(body.target, body.platform) for body in bodies)):
        if (loss := describe_loss(platform, this_cpu())) is not None:
            yield f"{platform.name}: {loss}"


def describe_saturation(body: Body) -> str | None:
    """Return a sentence for figures of a body that were measured on this CPU, if its sums saturate here."""
    platform = platform_of(body.target, body.platform)
    if platform is None or describe_loss(platform, this_cpu()) != SATURATES:
        return None
    return f"These figures include saturation, since this CPU has no VNNI; {_find_suited(platform)} is exact here"


def _find_suited(platform: Platform) -> str:
    """Return the best target for this CPU: of the same backend if one suits it, else of ONNX Runtime."""
    ranked = (rank_platforms(backend, this_cpu())[0] for backend in (platform.backend, ONNXRUNTIME))
    return next(best.name for best in ranked if suits(best, this_cpu()))


def describe_calibration(bundle: Bundle, target: str, file: str | None = None) -> str:
    """Return the command line that makes the body of a target as the recorded one of a file, or the last of all, made
    another. It is a sentence if the bundle has no float32 body."""
    option = f"--target {target}"
    if "float32" not in bundle.manifest.bodies:  # `fewstep pack` left it out
        return f"calibrate the bundle that this was packed from with {option}"
    command = recalibrate_command(bundle.manifest, bundle.path, file)
    return re.sub(r" --target \S+", f" {option}", command) if " --target " in command else f"{command} {option}"
