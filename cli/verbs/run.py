"""`fewstep run`: sample a bundle into a grid of images, or an array."""

import time

from fewstep.cli.describe.untaken_body import describe_untaken
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.request import open_request
from fewstep.cli.run.sampling import sample_to_files
from fewstep.cli.run_plan import describe_defaults
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.memory_size import format_bytes
from fewstep.runtime.progress import Progress


def verb(options: RunOptions, progress: Progress) -> Outcome:
    started = time.perf_counter()
    request = open_request(options)
    made = sample_to_files(request, progress)
    seconds, samples = time.perf_counter() - started, pluralize(len(made.x), "sample")
    value: dict[str, object] = {"output": options.output, "shape": made.x.shape, "plan": made.plan, "seconds": seconds}
    memory = ""
    if request.choice is not None:
        value["choice"] = request.choice
    origin = "calibrated" if request.choice is None else "chosen"
    taken = describe_defaults(request.defaults, options.guidance, options.clip, origin)
    if (options.tiles or options.memory) and (most := peak_bytes()) is not None:
        value["peak_bytes"] = most
        memory = f", {format_bytes(most)} peak memory"
        if request.memory is not None:
            value["expected_peak_bytes"] = request.memory.expected
    what = f"{samples} of {made.plan} in {request.options.precision}{taken}"
    line = f"{options.output}: {what}, {seconds:.1f} s including loading{memory}"
    given = options.precision if request.choice is None else request.choice.winner.precision
    backend = create_backend(request.options.backend, request.options.threads)
    return Outcome(value, (line, *describe_untaken(request.bundle, given, backend)))
