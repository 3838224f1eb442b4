"""`fewstep fit`: print the gain of a fitted plan, and the command that runs it."""

from dataclasses import replace
from shlex import quote

from rich.table import Table

from fewstep.cli.conditions import required_arguments
from fewstep.cli.next_command import NextCommand
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.cli.tables import table
from fewstep.fitting.blocks import BLOCK
from fewstep.fitting.cost import count_evaluations, estimate_fit, search_bytes
from fewstep.fitting.feature_tradeoff import Trade
from fewstep.fitting.fit import FitResult, fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.task import BODY, ROOM, open_fit_task
from fewstep.graph.resource_needs import format_duration
from fewstep.measure.cost import sampling_needs
from fewstep.measure.distances.frechet import SetComparison
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS, PAIRED
from fewstep.measure.workers.setup import warn_of_workers
from fewstep.plans.guidance import describe, weight_of
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress
from fewstep.runtime.sampling.calibrated_plans import default_guidance


def verb(options: FitOptions, progress: Progress) -> Outcome:
    options = _set_default_guidance(options)
    result = fit(options, progress)
    if result.plan is None:
        end = [_describe_rejection(options, result)]
    else:
        shifts = [after - before for after, before in zip(result.times, result.nominal_times, strict=True)]
        end = [f"shifts of the network's times from the nominal plan: {', '.join(f'{shift:+.3g}' for shift in shifts)}"]
        end += [f"{options.output}: the plan"] * (options.output is not None)
        if not result.is_kept:
            end.append(f"{options.bundle}: no plan is saved: {result.weak_teacher}")
        else:
            end.append(f"{options.bundle}: plan {FittedReference(options.steps)} for {result.body}")
    trade = [] if result.trade is None else [_describe_trade(result.trade)]
    sets = [] if result.sets is None else [_describe_sets(result, result.sets)]
    then = NextCommand(command_of(options, result))
    return Outcome(result, (_table(result), str(result.check), *trade, *sets, *end), then=then)


def dry_run(options: FitOptions) -> Outcome:
    given, options = options, _set_default_guidance(options)
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


def _set_default_guidance(options: FitOptions) -> FitOptions:
    """Return the options with the default guidance filled in, if it is a weight."""
    bundle = open_bundle(options.bundle)
    if options.guidance is not None or BODY not in bundle.manifest.bodies:
        return options
    return replace(options, guidance=weight_of(default_guidance(bundle, bundle.body(BODY), options.plan)))


def _table(result: FitResult) -> Table:
    """Return a table with the nominal plan and the fitted plan."""
    fitted = f"{result.nominal_psnr + result.on_judge.mean:.2f}"
    return table(
        ("plan", "PSNR", "gain"),
        [(result.nominal, f"{result.nominal_psnr:.2f}", ""), ("fitted", fitted, _format_gain(result))],
        text=("plan",),
        title=f"{result.bundle}, {result.body}",
        caption=f"PSNR in dB against float32 with many steps (the teacher, {result.teacher}): mean over "
        f"{result.judge_seeds} held-out judge seeds; gain: with its standard error. The gain is "
        f"{result.on_fit.mean:+.2f} on the fit seeds, and {result.on_selection.mean:+.2f} on the selection seeds.",
    )


def _describe_rejection(options: FitOptions, result: FitResult) -> str:
    """Describe the gain for which the plan was rejected, and its seeds."""
    kept = result.nominal if result.over_former is None else f"the former {FittedReference(options.steps)}"
    gates = (
        (result.on_selection, "the selection seeds", "--selection-seeds", options.selection_seeds, CHOICE_SEEDS),
        (result.on_judge, "the judge seeds", "--judge-seeds", options.judge_seeds, PAIRED),
    )
    for gain, where, option, seeds, most in gates:
        if gain.mean == gain.error == 0:
            return f"{kept} is kept: no change improved it"
        if not gain.is_significant:
            advice = f"; a larger {option} may decide" if gain.mean > 0 and seeds < len(most) else ""
            figures = f"{gain.mean:+.2f} ± {gain.error:.2f} dB"
            return f"{kept} is kept: the gain of {figures} on {where} is below two standard errors{advice}"
    assert result.over_former is not None
    loss = f"{-result.over_former.mean:.2f} ± {result.over_former.error:.2f} dB"
    return f"{kept} is kept: the new plan is {loss} worse on the judge seeds"


def _format_gain(result: FitResult) -> str:
    return f"{result.on_judge.mean:+.2f} ± {result.on_judge.error:.2f}"


def _describe_trade(trade: Trade) -> str:
    """Describe the PSNR that the last stage of the fit gives up, and what it gains for it."""
    features = f"{trade.features:+.2f} dB of features at weight {trade.weight:g}, and " if trade.weight else ""
    energy = f"a factor of {trade.factor:.4f} towards the teacher's energy"
    part = "" if trade.factor == trade.energy else f" (the full factor is {trade.energy:.4f})"
    return f"trade-off: {-trade.price:+.2f} dB of PSNR on the selection seeds for {features}{energy}{part}"


def _describe_sets(result: FitResult, sets: SetComparison) -> str:
    """Describe the distance of the samples as a set, with a warning if it grew by more than chance."""
    far = f"{sets.frechet_paired:.2f}, fitted {sets.frechet:.2f} ({sets.difference:+.2f} ± {sets.error:.2f})"
    warning = ": as a set, these samples are further from the teacher's" * result.are_sets_further
    return f"FD({result.features}) to the teacher, same seeds: {far}{warning}"


def command_of(options: FitOptions, result: FitResult) -> str:
    """Return the command that samples along the fitted plan, or along the nominal plan if no fitted plan is saved. It
    has an example value of each required condition."""
    plan = result.nominal if result.plan is None or not result.is_kept else f"{FittedReference(options.steps)}"
    words = [f"fewstep run {quote(str(options.bundle))} --plan {plan}"]
    words += [f"--backend {options.backend}"] * (options.backend != "onnxruntime")
    weight = options.guidance if result.plan is None else weight_of(result.plan.guidance)
    words += [] if weight is None else [f"--guidance {weight:g}"]
    return " ".join([*words, *required_arguments(open_bundle(options.bundle).manifest)])
