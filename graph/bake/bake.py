"""`fewstep bake`: write one ONNX file that computes samples from noise and conditions."""

from pathlib import Path

import msgspec

from fewstep.graph.bake.assemble import BakedRun, assemble
from fewstep.graph.bake.metadata import Baked, describe_run
from fewstep.graph.bake.network_form import (
    body_form,
    dequantize_before_loops,
    lossy_form,
    precision_in,
)
from fewstep.graph.bake.onnx_adapter import write_onnx_adapter
from fewstep.graph.bake.open_parts import check_run, open_parts
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import Planned, resolve_run
from fewstep.graph.bake.write import write_run
from fewstep.graph.graph import BATCH
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import resolve_call
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.progress import SILENT, Progress


def bake(
    options: BakeOptions, planned: Planned | None = None, progress: Progress = SILENT
) -> tuple[Baked, tuple[Path, ...]]:
    """Write the file, and run it once for its test vector, for at most two minutes. Return the description that is also
    stored in its metadata, and the files written."""
    bundle, body, plan = planned = planned or resolve_run(options)
    run, baked = assemble_run(options, planned)
    form, precision = body_form(bundle.manifest, options.body or body).form, bundle.body(body).precision
    graph = dequantize_before_loops(run.graph) if {form, precision} & {*WEIGHTS_ONLY} else run.graph
    adapters = (write_onnx_adapter(bundle, options.adapter, options.output),) if options.adapter else ()
    shape = plan.shape or bundle.manifest.x_shape
    sizes = {size: 1 for port in run.inputs for size in port.shape if isinstance(size, str)}
    sizes |= {BATCH: options.batch or 1, **default_sizes(shape, bundle.manifest.sizes), **run.sizes}
    baked, files = write_run(graph, options.output, baked, sizes, options.one_file, progress)
    return baked, (*files, *adapters)


def assemble_run(options: BakeOptions, planned: Planned | None = None) -> tuple[BakedRun, Baked]:
    """Return the run as a graph, and its description. Nothing is written."""
    bundle, body, plan = planned or resolve_run(options)
    check_run(options, bundle, bundle.body(body), plan)
    around = [resolve_call("around", text, 1) for text in options.around]
    if options.output.resolve() in (file.resolve() for bundle in around for file in bundle.files):
        raise UserError(f"{options.output} is both an input and the output", "give the output another name")
    named = body_form(bundle.manifest, options.body or body)
    parts = open_parts(bundle, body, plan, named.form, options.latents)
    run = assemble(bundle.manifest, plan, parts, options.batch, options.unroll, options.hold)
    for each in around:
        run = each.function(run, *each.arguments)
        if not isinstance(run, BakedRun):
            raise UserError(f"--around {each.text} returned {type(run).__name__}", "let it return a BakedRun")
    baked = describe_run(bundle.manifest, bundle.body(body), plan, run.inputs, run.output, run.draws, run.carried)
    precision = precision_in(named.form, baked.precision)
    form, has_functions = lossy_form(named), bool(options.around)
    return run, msgspec.structs.replace(baked, precision=precision, form=form, around=has_functions, hold=options.hold)
