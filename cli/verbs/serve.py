"""`fewstep serve`: serve a policy to robots in other processes until Ctrl-C, then print how many calls it made."""

import sys

from fewstep.cli.outcome import Outcome, pluralize
from fewstep.plans.errors import printable
from fewstep.robots.serving.serve import ServeOptions, serve
from fewstep.runtime.progress import Progress


def verb(options: ServeOptions, progress: Progress) -> Outcome:
    served = serve(options, _say)
    first, *others = served.latencies.splitlines() or [""]
    return Outcome(served, (f"{pluralize(served.sequences, 'sequence')} sampled: {first}", *others))


def _say(line: str) -> None:
    print(f"fewstep: {printable(line)}", file=sys.stderr, flush=True)
