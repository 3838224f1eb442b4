"""The targets that a bound can hold for: a speed needs the kind of CPU that runs the body, a quality none."""

import logging
import platform
from collections.abc import Sequence

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.bound import Bound
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, cpu_kind, rank_platforms

LOG = logging.getLogger("fewstep")


def timeable_targets() -> tuple[str, ...]:
    """The targets whose graphs onnxruntime runs on this kind of CPU as on those that they are for: they are timed."""
    here = cpu_kind(platform.machine())
    return tuple(each.name for each in rank_platforms(ONNXRUNTIME) if each.cpu in (None, here))


def bound_applies(target: Target, bound: Bound) -> bool:
    """True where a bound holds for a target."""
    return not target.scheme.no_floats if bound.speed is None else target.name in timeable_targets()


def check_targets(targets: Sequence[Target], bound: Bound) -> None:
    """UserError where a bound can hold for no target; a warning names targets that it leaves alone."""
    bound_for = [target.name for target in targets if bound_applies(target, bound)]
    others = ", ".join(target.name for target in targets if target.name not in bound_for)
    if not bound_for and bound.speed is not None:
        raise UserError(
            f"--speed for {others}: times are measured where the body runs",
            f"add target {' or '.join(timeable_targets())}, calibrate there, or ask for a quality (--quality 44dB)",
        )
    if not bound_for:
        raise UserError(f"--quality for {others}: engines without floats keep nothing in float", "leave it out")
    if others:
        LOG.warning("the bound holds for %s alone; without a bound: %s", ", ".join(bound_for), others)
