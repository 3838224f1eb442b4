"""Options of `fewstep run` that the saved choice of this machine completes."""

from dataclasses import replace

from fewstep.cli.run.options import RunOptions
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.report.choosing.saved_choice import SavedChoice, load_choice, warn_of_quality


def apply_choice(options: RunOptions) -> tuple[RunOptions, SavedChoice | None]:
    """Return the options and None; or, with --chosen, the options completed by the choice that was saved on this
    machine, and that choice."""
    if not options.chosen:
        return options, None
    choice = load_choice(options.bundle)
    winner = choice.winner
    warn_of_quality(choice)
    options = replace(
        options, chosen=False, plan=parse_plan_text(winner.plan), guidance=choice.guidance, precision=winner.precision
    )
    engine = winner.engine
    return replace(options, backend=engine.backend, threads=engine.threads, memory=choice.memory), choice
