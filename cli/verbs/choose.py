"""`fewstep choose`: compare deployments, and print a table with the Pareto front, and the command line that runs the
winner."""

from rich.table import Table

from fewstep.cli.describe.choice import choice_table, describe_choice, draw_choice
from fewstep.cli.errors import CommandLineError
from fewstep.cli.next_command import deploy_next, run_next
from fewstep.cli.outcome import Outcome
from fewstep.graph.files.output_files import write_atomic
from fewstep.graph.resource_needs import check_memory, format_duration
from fewstep.report.choosing.choose import NoneWithinLimits, choose, open_judging, plans_by_body
from fewstep.report.choosing.cost import estimate, estimate_needs
from fewstep.report.choosing.options import ChooseOptions
from fewstep.runtime.progress import Progress


def verb(options: ChooseOptions, progress: Progress) -> Outcome:
    _check_bound(options)
    error = None
    try:
        choice = choose(options, progress)
    except NoneWithinLimits as refusal:
        choice, error = refusal.choice, refusal
    if options.output is not None:
        write_atomic(options.output, draw_choice(choice, options).encode())
    shown: tuple[str | Table, ...] = (
        choice_table(choice, options.batch),
        *choice.left_out,
        *choice.notes,
        *(describe_choice(choice) if error is None else ()),
    )
    then = None
    if choice.chosen is not None:  # a server does not keep to a budget of memory
        next_of = deploy_next if choice.chosen.memory is None else run_next
        then = next_of(options.bundle, "--chosen", given=options)
    return Outcome(choice, shown, then=then, error=error)


def dry_run(options: ChooseOptions) -> Outcome:
    _check_bound(options)
    judging = open_judging(options)
    plans = plans_by_body(judging, options.plan)
    needed = estimate_needs(judging.bundle, judging.plan, judging.batch)
    names = list(dict.fromkeys(name for own in plans.values() for name in own))
    expected = estimate(judging, plans, options.threads, options.milliseconds)
    if_it_suffices = "" if options.teacher else ", if this teacher suffices"
    check_memory(needed, options.bundle)
    value = {
        "bundle": options.bundle,
        "bodies": list(plans),
        "plans": names,
        "teacher": judging.reference_plan.name,
        "evaluations": expected.evaluations,
        "seconds": expected.sampling,
        "timing_seconds": expected.timing,
        "needs": needed,
    }
    return Outcome(
        value,
        (
            f"would judge {', '.join(names)} on {', '.join(plans)}, against the teacher {judging.reference_plan.name}",
            f"at most {expected.evaluations} evaluations of one sample (both branches of guidance count as one) take "
            f"about {format_duration(expected.sampling)} at float32's speed{if_it_suffices}",
            f"timing takes at most {format_duration(expected.timing)} more; earlier measurements are reused",
            needed.describe(options.bundle),
        ),
    )


def _check_bound(options: ChooseOptions) -> None:
    """Raise UserError for a token bundle, which `choose` cannot judge, and if the options limit neither time nor
    quality, by dB or by a judge.

    Without a limit no deployment can be chosen. Plans that --plan names can still be compared.
    """
    options.open().check_continuous("choose")
    if not options.is_limited and not options.plan:
        raise CommandLineError(
            "choose needs a limit",
            "give --within 20ms, --at-least 40dB or --memory 2GB, or plans to compare (--plan dpmpp_2m:8)",
        )
