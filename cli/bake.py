"""`fewstep bake`: say what the file takes and what it gives."""

import logging

from rich.filesize import decimal

from fewstep.cli.outcome import Outcome
from fewstep.cli.run_plan import unlike_calibration
from fewstep.graph.bake.bake import BakeOptions, bake, plan_of
from fewstep.graph.bake.metadata import BakedPort
from fewstep.runtime.progress import Progress

LOG = logging.getLogger("fewstep")


def verb(options: BakeOptions, progress: Progress) -> Outcome:
    planned = plan_of(options)
    if (unlike := unlike_calibration(*planned)) is not None:
        LOG.warning("%s", unlike)
    baked, files = bake(options, planned)
    sizes = ", ".join(f"{file} ({decimal(file.stat().st_size)})" for file in files)
    takes = "; ".join(map(_told, baked.inputs))
    return Outcome(
        {"files": files, "holds": baked},
        (f"{sizes}: {baked.plan} in {baked.precision}", f"takes {takes}", f"returns {_told(baked.output)}"),
    )


def _told(port: BakedPort) -> str:
    return f"{port.name} {port.dtype} [{', '.join(map(str, port.shape))}]"
