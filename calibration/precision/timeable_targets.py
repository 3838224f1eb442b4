"""The targets to which a bound applies: a speed needs the CPU type that runs the body; a quality does not."""

import logging
import platform
from collections.abc import Sequence

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.bound import Bound
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, cpu_kind, rank_platforms

LOG = logging.getLogger("fewstep")


def timeable_targets() -> tuple[str, ...]:
    """Return the targets whose bodies run on this machine with onnxruntime at the speed of their own platform. Only
    these can be timed."""
    here = cpu_kind(platform.machine())
    return tuple(each.name for each in rank_platforms(ONNXRUNTIME) if each.cpu in (None, here))


def bound_applies(target: Target, bound: Bound) -> bool:
    """Return whether a bound applies to a target."""
    if target.scheme.no_floats or target.scheme.weight_bits is not None:
        return False
    return bound.speed is None or target.name in timeable_targets()


def check_targets(targets: Sequence[Target], bound: Bound) -> None:
    """Raise UserError if a bound applies to no target. Warn of targets to which it does not apply."""
    bound_for = [target.name for target in targets if bound_applies(target, bound)]
    others = ", ".join(target.name for target in targets if target.name not in bound_for)
    if not bound_for and bound.speed is not None:
        raise UserError(
            f"--speed for {others}: times can only be measured on the CPU that runs the body",
            f"add target {' or '.join(timeable_targets())}, calibrate there, or ask for a quality (--quality 44dB)",
        )
    if not bound_for:
        is_integer = any(target.scheme.no_floats for target in targets)
        reason = "whose engines run all operations in integers" if is_integer else "which quantizes weights alone"
        raise UserError(f"--quality does not apply to {others}, {reason}", "leave --quality out")
    if others:
        LOG.warning("the bound applies only to %s; targets calibrated without it: %s", ", ".join(bound_for), others)
