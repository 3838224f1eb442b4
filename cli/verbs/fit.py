"""`fewstep fit`: fit a plan, and print its gain, and the command that runs it."""

from dataclasses import replace

from fewstep.cli.describe.fit import (
    command_of,
    describe_rejection,
    describe_score,
    describe_sets,
    describe_trade,
    fit_table,
)
from fewstep.cli.describe.light_steps import light_dry_run, light_outcome
from fewstep.cli.next_command import NextCommand
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.fitting.blocks import BLOCK
from fewstep.fitting.cost import count_evaluations, estimate_fit, search_bytes
from fewstep.fitting.fit import fit
from fewstep.fitting.light_steps import choose_light_steps, open_light_task
from fewstep.fitting.options import FitOptions
from fewstep.fitting.requirements import BODY
from fewstep.fitting.task import ROOM, open_fit_task, set_default_guidance
from fewstep.graph.resource_needs import format_duration
from fewstep.measure.cost import sampling_needs
from fewstep.measure.workers.setup import warn_of_workers
from fewstep.plans.guidance import describe
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.runtime.progress import Progress


def verb(options: FitOptions, progress: Progress) -> Outcome:
    options = set_default_guidance(options)
    if options.light is not None:
        return light_outcome(options, choose_light_steps(open_light_task(options), progress))
    result = fit(options, progress)
    if result.plan is None:
        end = [describe_rejection(options, result)]
    else:
        shifts = [after - before for after, before in zip(result.times, result.nominal_times, strict=True)]
        end = [f"shifts of the network's times from the nominal plan: {', '.join(f'{shift:+.3g}' for shift in shifts)}"]
        end += [f"{options.output}: the plan"] * (options.output is not None)
        if not result.is_kept:
            end.append(f"{options.bundle}: no plan is saved: {result.weak_teacher}")
        else:
            end.append(f"{options.bundle}: plan {FittedReference(options.steps)} for {result.body}")
    trade = [] if result.trade is None else [describe_trade(result.trade)]
    sets = [] if result.sets is None else [describe_sets(result, result.sets)]
    then = NextCommand(command_of(options, result))
    score = [] if result.score is None else [describe_score(result, result.score)]
    return Outcome(result, (fit_table(result), str(result.check), *trade, *sets, *score, *end), then=then)


def dry_run(options: FitOptions) -> Outcome:
    if options.light is not None:
        return light_dry_run(options)
    given, options = options, set_default_guidance(options)
    task = open_fit_task(options)
    as_calibrated = " as calibrated" * (given.guidance is None and task.guidance is not None)
    body, teacher = count_evaluations(task)
    time = estimate_fit(task).sampling
    needed = sampling_needs(task.bundle, (BODY,), task.teacher, BLOCK, (ROOM,), options.workers)
    needed = replace(needed, memory=needed.memory + search_bytes(task))
    warn_of_workers(options.setup)
    names = [plan.name for plan in task.starts.plans]
    begin = names[0] if len(names) == 1 else f"the best of {pluralize(len(names), 'plan')}"
    if solvers := task.starts.path_solvers:
        begin += f", or of {pluralize(len(solvers), 'solver')} over times from the teacher's trajectories,"
    if_it_suffices = "" if options.teacher else ", if this teacher suffices"
    value = {
        "bundle": options.bundle,
        "body": BODY,
        "plans": names,
        "solvers_on_path": solvers,
        "guidance": describe(task.guidance),
        "teacher": task.teacher.name,
        "evaluations": body,
        "teacher_evaluations": teacher,
        "seconds": time,
        "needs": needed,
    }
    return Outcome(
        value,
        (
            f"would fit {begin} with {pluralize(options.steps, 'evaluation')} to {BODY}",
            f"at guidance {describe(task.guidance)}{as_calibrated}",
            f"with at most {body} evaluations of one sample, and {teacher} by float32 with many steps (the teacher "
            f"{task.teacher.name})",
            f"in at most {format_duration(time)} at the current speed{if_it_suffices}",
            needed.describe(options.bundle),
        ),
    )
