"""For which targets a bound can hold: a search times their graphs, so it needs the kind of CPU that runs them."""

import logging
import platform
from collections.abc import Sequence

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, cpu_kind, preferred

LOG = logging.getLogger("fewstep")
KINDS = {"arm": "an ARM", "x86": "an x86"}


def searched_here() -> tuple[str, ...]:
    """The targets whose graphs onnxruntime runs on this kind of CPU as on those that they are for."""
    here = cpu_kind(platform.machine())
    return tuple(each.name for each in preferred(ONNXRUNTIME) if each.cpu in (None, here))


def check_targets(names: Sequence[str]) -> None:
    """UserError where a bound is for another kind of CPU, or for none; a warning names targets that it leaves alone."""
    here, cpus = searched_here(), {each.name: each.cpu for each in preferred(ONNXRUNTIME)}
    for name in names:
        cpu = cpus.get(name) if name not in here else None
        if cpu is not None:
            kind = KINDS[cpu]
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
        LOG.warning(
            "the bound holds for %s alone; all int8, without a bound: %s",
            ", ".join(n for n in names if n in here),
            others,
        )
