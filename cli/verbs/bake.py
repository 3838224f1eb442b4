"""`fewstep bake`: print the inputs and outputs of the baked file."""

import logging
from dataclasses import replace

from rich.filesize import decimal

from fewstep.cli.describe.baked import describe_guidance, describe_ports
from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome
from fewstep.cli.run_plan import describe_calibration_mismatch
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.network_form import body_form
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.write_parts import write_parts
from fewstep.graph.bake.resolve_run import resolve_run, select_body
from fewstep.graph.files.output_files import check_writable
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.calibrated_plans import default_guidance

LOG = logging.getLogger("fewstep")


def verb(options: BakeOptions, progress: Progress) -> Outcome:
    if not options.parts:
        check_writable(options.output)
    options = _set_default_guidance(options)
    bundle, body, plan = planned = resolve_run(options)
    if (unlike := describe_calibration_mismatch(bundle, bundle.body(body), plan)) is not None:
        LOG.warning("%s", unlike)
    baked, files = write_parts(options, planned) if options.parts else bake(options, planned, progress)
    sizes = ", ".join(f"{file} ({decimal(file.stat().st_size)})" for file in files)
    what = f"{baked.plan} in {baked.precision}, {describe_guidance(baked)}"
    use = "run it with onnxruntime in any language: docs/bake.md has programs in Python, C++ and JavaScript"
    value = {"files": files, "holds": baked}
    then = None if options.parts else next_command("verify", options.output)
    return Outcome(value, (f"{sizes}: {what}", *describe_ports(baked), use), then=then)


def _set_default_guidance(options: BakeOptions) -> BakeOptions:
    """Return the options with the default guidance filled in."""
    if options.guidance is not None:
        return options
    bundle = options.open()
    chosen = select_body(options, bundle)
    body, _ = body_form(bundle.manifest, chosen)
    return replace(options, guidance=default_guidance(bundle, bundle.body(body), options.plan))
