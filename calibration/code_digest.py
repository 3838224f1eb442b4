"""Which code made what is kept for the next run: after an edit or an update, nothing of earlier code is taken."""

from hashlib import sha256
from pathlib import Path

import fewstep.calibration
import fewstep.graph
import fewstep.machine
import fewstep.plans
import fewstep.runtime
from fewstep.machine.packages import version_of

PACKAGES = (
    fewstep.calibration,
    fewstep.graph,
    fewstep.machine,
    fewstep.plans,
    fewstep.runtime,
)  # what makes the graphs, and runs and times them


def code() -> bytes:
    """A digest of fewstep's version and of all Python sources of PACKAGES. Installed without sources, the version alone
    tells."""
    known = sha256(repr(version_of("fewstep")).encode())
    for folder in (Path(path) for package in PACKAGES for path in package.__path__):
        for file in sorted(folder.rglob("*.py")):
            known.update(f"{file.relative_to(folder).as_posix()} {sha256(file.read_bytes()).hexdigest()}".encode())
    return known.digest()
