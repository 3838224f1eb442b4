"""For which targets a bound can hold: a search times their graphs, so it needs the kind of CPU that runs them."""

import logging
import platform
from collections.abc import Sequence

from fewstep.calibration.bodies import NATIVE
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import ARM

LOG = logging.getLogger("fewstep")
OF_ARM = ("cpu-arm",)


def searched_here() -> tuple[str, ...]:
    """The targets whose graphs onnxruntime runs on this kind of CPU as on those that they are for."""
    is_arm = platform.machine() in ARM
    return tuple(name for name in NATIVE if (name in OF_ARM) == is_arm)


def check_targets(names: Sequence[str]) -> None:
    """UserError where a bound is for another kind of CPU, or for none; a warning names targets that it leaves alone."""
    here = searched_here()
    for name in names:
        if name in NATIVE and name not in here:
            kind = "an ARM" if name in OF_ARM else "an x86"
            raise UserError(
                f"a precision map for {name} on {platform.machine()}: its times are those of {kind} CPU",
                f"calibrate {name} on {kind} CPU, or leave the bound out",
            )
    others = ", ".join(name for name in names if name not in here)
    if not set(here) & set(names):
        raise UserError(
            f"a precision map for {others}: it is measured where the body runs", f"add target {' or '.join(here)}"
        )
    if others:
        LOG.warning("the bound holds for %s only; all int8: %s", ", ".join(n for n in names if n in here), others)
