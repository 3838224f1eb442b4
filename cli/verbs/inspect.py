"""`fewstep inspect`: print a bundle as a tree."""

from fewstep.cli.describe.baked import describe_baked
from fewstep.cli.describe.bundle import build_tree
from fewstep.cli.outcome import Outcome
from fewstep.graph.bake.seal_check import read_metadata
from fewstep.plans.errors import UserError
from fewstep.report.bundle_contents import (
    InspectOptions,
    inspect,
)
from fewstep.report.integrity import is_baked
from fewstep.runtime.progress import Progress


def verb(options: InspectOptions, progress: Progress) -> Outcome:
    if is_baked(options.bundle):
        if options.operations:
            raise UserError("--operations lists the operations of a bundle, not of a baked file", "leave it out")
        baked = read_metadata(options.bundle)
        return Outcome(baked, describe_baked(options.bundle, baked))
    contents = inspect(options)
    return Outcome(contents, (build_tree(contents, options.operations),))
