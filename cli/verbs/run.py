"""`fewstep run`: sample a bundle into a grid of images, or an array."""

import time
from dataclasses import replace

from fewstep.cli.outcome import Outcome, counted
from fewstep.cli.run_options import RunOptions
from fewstep.cli.run_output import ARRAY, write
from fewstep.cli.run_request import RunRequest, open_request
from fewstep.cli.run_sampling import RunSamples, sampled
from fewstep.plans.guidance import as_guidance, describe
from fewstep.runtime.machine.memory import peak
from fewstep.runtime.pictures import pictures_of
from fewstep.runtime.progress import SILENT, Progress


def verb(options: RunOptions, progress: Progress) -> Outcome:
    started = time.perf_counter()
    request = open_request(options)
    made = _written(request, progress)
    seconds, samples = time.perf_counter() - started, counted(len(made.x), "sample")
    value: dict[str, object] = {"output": options.output, "shape": made.x.shape, "plan": made.plan, "seconds": seconds}
    own = memory = ""
    if request.choice is not None:
        value["choice"] = request.choice
    elif (guidance := request.options.guidance) != options.guidance:
        own = f", guidance {describe(as_guidance(guidance))} as calibrated"
    if options.tiles and (most := peak()) is not None:
        value["peak_bytes"] = most
        memory = f", {most >> 20} MiB at its peak"
    what = f"{samples} of {made.plan} in {request.options.precision}{own}"
    return Outcome(value, (f"{options.output}: {what}, {seconds:.1f} s with loading{memory}",))


def run(options: RunOptions, progress: Progress = SILENT) -> RunSamples:
    """The samples that were written, as latents or as pictures."""
    return _written(open_request(options), progress)


def _written(request: RunRequest, progress: Progress) -> RunSamples:
    options, made = request.options, sampled(request, progress)
    if options.is_picture:
        tiles = None if request.tiled is None else request.tiled.tiles
        made = replace(made, x=pictures_of(request.bundle, made.x, tiles, options.threads))
    write(made.x, options.output, options.columns, options.scale)
    for name, tensor in made.beside.items():
        write(tensor, options.output.with_suffix(f".{name}{ARRAY}"), None, None)
    return made
