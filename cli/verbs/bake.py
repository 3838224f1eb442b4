"""`fewstep bake`: write a sampling run as one ONNX file, or as parts, and print its inputs and outputs."""

from rich.filesize import decimal

from fewstep.cli.bake_options import BakeCommandOptions, complete_options
from fewstep.cli.describe.baked import describe_guidance, describe_ports
from fewstep.cli.describe.untaken_body import describe_untaken
from fewstep.cli.next_command import next_command
from fewstep.cli.outcome import Outcome
from fewstep.cli.run_plan import describe_defaults, warn_of_mismatch
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.parts.write_parts import write_parts
from fewstep.graph.bake.resolve_run import resolve_run
from fewstep.graph.files.output_files import check_writable
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.platforms import ONNXRUNTIME
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.calibrated_plans import find_defaults


def verb(given: BakeCommandOptions, progress: Progress) -> Outcome:
    options = complete_options(given)
    if not options.parts:
        check_writable(options.output)
    bundle, body, plan = planned = resolve_run(options)
    if not given.chosen:  # a choice measured this plan with this body
        warn_of_mismatch(bundle, bundle.body(body), plan, options.clip)
    baked, files = write_parts(options, planned) if options.parts else bake(options, planned, progress)
    sizes = ", ".join(f"{file} ({decimal(file.stat().st_size)})" for file in files)
    defaults = find_defaults(bundle, bundle.body(body), options.plan)
    taken = describe_defaults(defaults, options.guidance, options.clip) or f", {describe_guidance(baked)}"
    shaping = shaping_of(plan)
    if shaping is not None and describe_shaping(shaping) not in taken:
        taken += f", {describe_shaping(shaping)}"
    form = f" ({baked.form})" if baked.form not in (None, "", baked.precision) else ""
    what = f"{baked.plan} in {baked.precision}{form}{taken}"
    use = "run it with onnxruntime in any language: docs/bake.md has programs in Python, C++ and JavaScript"
    if bundle.manifest.text is not None and not options.latents:
        use = "run it with onnxruntime in any language, on token ids: docs/bake.md says how to make them in Python"
    untaken = describe_untaken(bundle, options.precision or options.body, create_backend(ONNXRUNTIME))
    value = {"files": files, "holds": baked}
    then = next_command("verify", options.output)
    return Outcome(value, (f"{sizes}: {what}", *untaken, *describe_ports(baked), use), then=then)
