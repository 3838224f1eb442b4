"""`fewstep fit`: the gain of a fitted plan, and how it is found again."""

from dataclasses import replace

from rich.table import Table

from fewstep.cli.conditions import needed_words
from fewstep.cli.outcome import Outcome, counted
from fewstep.cli.tables import figures
from fewstep.evaluation.cost import sampling_needs
from fewstep.fitting.blocks import BLOCK, CHOICE_SEEDS
from fewstep.fitting.cost import column_bytes, evaluations, seconds
from fewstep.fitting.ending.energy import Energy
from fewstep.fitting.ending.residual import FeatureResidual
from fewstep.fitting.ending.sets import SetDistances
from fewstep.fitting.ending.step_back import StepBack
from fewstep.fitting.fit import FitResult, fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.task import ROOM, open_task
from fewstep.graph.needs import duration
from fewstep.plans.guidance import weight_of
from fewstep.rollouts.held_out import PAIRED
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.fitted_plans import FITTED
from fewstep.runtime.progress import Progress
from fewstep.workers.opening import warn_of_workers


def verb(options: FitOptions, progress: Progress) -> Outcome:
    result = fit(options, progress)
    if result.plan is None:
        end = [_rejection(options, result)]
    else:
        shifts = [after - before for after, before in zip(result.told, result.nominal_told, strict=True)]
        end = [f"times of the network less the nominal plan's: {', '.join(f'{shift:+.3g}' for shift in shifts)}"]
        end += [f"{options.output}: the plan"] * (options.output is not None)
        if not result.is_kept:
            end.append(f"{options.bundle}: no plan is kept: {result.weak_teacher}")
        else:
            end.append(
                f"{options.bundle}: plan {FITTED}{options.steps} for {result.body}: {command_of(options, result)}"
            )
    back = [] if result.back is None else [_back(result.back)]
    residual = [] if result.residual is None else [_residual(result.residual)]
    energy = [] if result.energy is None else [_energy(result.energy)]
    sets = [] if result.sets is None else [_sets(result.sets)]
    return Outcome(result, (table(result), str(result.check), _span(result), *back, *residual, *energy, *sets, *end))


def dry_run(options: FitOptions) -> Outcome:
    task = open_task(options)
    body, teacher = evaluations(task, options)
    time = seconds(task, options)
    needed = sampling_needs(task.bundle, (task.body,), task.teacher, BLOCK, (ROOM,), options.workers, options.dask)
    needed = replace(needed, memory=needed.memory + column_bytes(task, options))
    warn_of_workers(options.workers, options.threads)
    names = [plan.name for plan in task.starts.plans]
    begin = names[0] if len(names) == 1 else f"the best of {counted(len(names), 'plan')}"
    if_it_suffices = "" if options.teacher else ", if this teacher suffices"
    value = {
        "bundle": options.bundle,
        "body": task.body,
        "plans": names,
        "teacher": task.teacher.name,
        "evaluations": body,
        "teacher_evaluations": teacher,
        "seconds": time,
        "needs": needed,
    }
    return Outcome(
        value,
        (
            f"would fit {begin} in {counted(options.steps, 'evaluation')} to {task.body}",
            f"with at most {body} evaluations of one sample, and {teacher} by the teacher {task.teacher.name}",
            f"at most {duration(time)} at the speed of this moment{if_it_suffices}",
            needed.said(options.bundle),
        ),
    )


def table(result: FitResult) -> Table:
    """The nominal plan beside the fitted one."""
    fitted = f"{result.nominal_psnr + result.on_judge.mean:.2f}"
    return figures(
        f"{result.bundle}, {result.body}",
        ("PSNR", "gain"),
        [(result.nominal, f"{result.nominal_psnr:.2f}", ""), ("fitted", fitted, _gain(result))],
        f"PSNR in dB against the float32 teacher {result.teacher}, mean over {result.judge_seeds} seeds that nothing "
        f"was fitted or chosen on, and the gain with its standard error. The gain is {result.on_fit.mean:+.2f} on the "
        f"seeds of the fit, and {result.on_selection.mean:+.2f} on those of its choices.",
    )


def _rejection(options: FitOptions, result: FitResult) -> str:
    """The gain that decided against the plan, and its seeds."""
    kept = result.nominal if result.over_former is None else f"the former {FITTED}{options.steps}"
    gates = (
        (result.on_selection, "the seeds of the choices", "--selection-seeds", options.selection_seeds, CHOICE_SEEDS),
        (result.on_judge, "the judge seeds", "--judge-seeds", options.judge_seeds, PAIRED),
    )
    for gain, where, option, seeds, most in gates:
        if gain.mean == gain.error == 0:
            return f"{kept} is kept: no change was found better"
        if not gain.counts:
            advice = f"; more {option} may decide" if gain.mean > 0 and seeds < len(most) else ""
            said = f"{gain.mean:+.2f} ± {gain.error:.2f} dB"
            return f"{kept} is kept: the gain of {said} on {where} is under two standard errors{advice}"
    assert result.over_former is not None
    behind = f"{-result.over_former.mean:.2f} ± {result.over_former.error:.2f} dB"
    return f"{kept} is kept: the new plan is {behind} behind it on the judge seeds"


def _gain(result: FitResult) -> str:
    return f"{result.on_judge.mean:+.2f} ± {result.on_judge.error:.2f}"


def _span(result: FitResult) -> str:
    """How much of the error no coefficient can take away."""
    return (
        f"coefficients alone: at most {result.span_psnr:.1f} dB with these predictions, where the plan has "
        f"{result.span_fitted:.1f} dB (the first judge seeds, with coefficients of each sample's own)"
    )


def _back(back: StepBack) -> str:
    """How much of the corrections stays for the sake of features."""
    if back.share == back.lean == 1:
        return "features: all corrections stay"
    apart = "" if back.lean == back.share else f", and {back.lean:.2f} of those to guidance weights"
    stay = f"{back.share:.2f} of the corrections stay{apart}"
    prices = f"{-back.price:+.2f} dB of PSNR and {back.gain:+.2f} dB of features"
    return f"features: {stay}; {prices} on the seeds of the choices"


def _residual(found: FeatureResidual) -> str:
    """What the steps for pixels and features together did."""
    if found.weight == 0:
        return "feature residual: none"
    prices = f"{-found.price:+.2f} dB of PSNR and {found.gain:+.2f} dB of features"
    return f"feature residual: weight {found.weight:g}; {prices} on the seeds of the choices"


def _energy(energy: Energy) -> str:
    """What the last stage did, and its price."""
    price = f"{-energy.price:+.2f} dB on the seeds of the choices"
    if energy.taken == energy.factor:
        return f"energy: as the teacher's, by a factor of {energy.factor:.4f} and {price}"
    part = "" if energy.taken == 1 else f"; a factor of {energy.taken:.4f} is taken"
    return f"energy: not the teacher's, which would take a factor of {energy.factor:.4f} and {price}{part}"


def _sets(found: SetDistances) -> str:
    """How near the samples are as a set, with a warning where they are further than before."""
    by = f"{found.fitted - found.nominal:+.2f} ± {found.error:.2f}"
    line = f"FD({found.features}) to the teacher, same seeds: {found.nominal:.2f}, fitted {found.fitted:.2f} ({by})"
    return f"{line}: as a set, these samples are further from the teacher's" if found.is_worse else line


def command_of(options: FitOptions, result: FitResult) -> str:
    """The command that samples along the plan, with an example of each condition that the bundle needs."""
    words = [f"fewstep run {options.bundle} --plan {FITTED}{options.steps}"]
    words += [f"--precision {options.precision}"] * (options.precision != "float32")
    words += [f"--backend {options.backend}"] * (options.backend != "onnxruntime")
    weight = None if result.plan is None else weight_of(result.plan.guidance)
    words += [] if weight is None else [f"--guidance {weight:g}"]
    return " ".join([*words, *needed_words(open_bundle(options.bundle).manifest)])
