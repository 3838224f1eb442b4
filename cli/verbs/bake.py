"""`fewstep bake`: print the inputs and outputs of the baked file."""

import logging
from dataclasses import replace

from rich.filesize import decimal

from fewstep.cli.describe_baked import describe_guidance, describe_ports
from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome
from fewstep.cli.run_plan import describe_calibration_mismatch
from fewstep.graph.bake.bake import BakeOptions, bake, resolve_run
from fewstep.graph.output_files import check_writable
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.loading import choose_body
from fewstep.runtime.sampling.planning import default_guidance

LOG = logging.getLogger("fewstep")


def verb(options: BakeOptions, progress: Progress) -> Outcome:
    check_writable(options.output)
    options = _set_default_guidance(options)
    bundle, body, plan = planned = resolve_run(options)
    if (unlike := describe_calibration_mismatch(bundle, bundle.body(body), plan)) is not None:
        LOG.warning("%s", unlike)
    baked, files = bake(options, planned, progress)
    sizes = ", ".join(f"{file} ({decimal(file.stat().st_size)})" for file in files)
    what = f"{baked.plan} in {baked.precision}, {describe_guidance(baked)}"
    use = "run it with onnxruntime in any language: docs/bake.md has programs in Python, C++ and JavaScript"
    value = {"files": files, "holds": baked}
    return Outcome(
        value, (f"{sizes}: {what}", *describe_ports(baked), use), then=next_command("verify", options.output)
    )


def _set_default_guidance(options: BakeOptions) -> BakeOptions:
    """Return the options with the default guidance filled in."""
    if options.guidance is not None:
        return options
    bundle = open_bundle(options.bundle)
    body = options.body or choose_body(bundle, options.precision or "float32", OnnxRuntime())
    return replace(options, guidance=default_guidance(bundle, bundle.body(body), options.plan))
