"""The code that the counts and measurements of a calibration follow from."""

import fewstep.calibration
import fewstep.graph
import fewstep.machine
import fewstep.plans
import fewstep.runtime
from fewstep.machine.code_digest import code_of

PACKAGES = (
    fewstep.calibration,
    fewstep.graph,
    fewstep.machine,
    fewstep.plans,
    fewstep.runtime,
)  # what makes the graphs, and runs and times them


def code() -> bytes:
    """A digest of fewstep's version and of all Python sources of PACKAGES."""
    return code_of(PACKAGES)
