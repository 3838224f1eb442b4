"""`fewstep serve`: serve a policy to robots in other processes until Ctrl-C, then print how many calls it made."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.cli.describe.untaken_body import describe_untaken
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.run_plan import warn_of_mismatch
from fewstep.plans.errors import printable
from fewstep.robots.serving.serve import Opened, ServeOptions, open_policy, serve
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.progress import Progress


def verb(options: ServeOptions, progress: Progress) -> Outcome:
    served = serve(options, _say, open_checked)
    first, *others = served.latencies.splitlines() or [""]
    return Outcome(served, (f"{pluralize(served.sequences, 'sequence')} sampled: {first}", *others))


@contextmanager
def open_checked(options: ServeOptions) -> Iterator[Opened]:
    """Load the policy, and compile its plans. Logs which of them its body was not calibrated for, and
    the int8 body that a server without --precision does not run."""
    with (open_chosen if options.chosen else open_policy)(options) as (sampler, plans):
        for plan in plans:
            warn_of_mismatch(sampler.bundle, sampler.body, plan, None)
        precision = sampler.body.precision if options.chosen else options.precision
        for line in describe_untaken(sampler.bundle, precision, create_backend(options.backend, options.threads)):
            _say(line)
        yield sampler, plans


@contextmanager
def open_chosen(options: ServeOptions) -> Iterator[Opened]:
    """Load the policy with the body and the engine of the last choice on this machine, and compile its plans."""
    from fewstep.report.choosing.saved_choice import load_choice, load_chosen_sampler, warn_of_quality  # slow to load

    choice = load_choice(options.bundle)
    warn_of_quality(choice)
    with load_chosen_sampler(options.bundle, choice) as sampler:
        yield sampler, [sampler.compile(plan, **choice.settings_of(plan)) for plan in choice.family]


def _say(line: str) -> None:
    print(f"fewstep: {printable(line)}", file=sys.stderr, flush=True)
