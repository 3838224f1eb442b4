"""The gain of a fitted plan as text, and the command that runs the plan."""

from shlex import quote

from rich.table import Table

from fewstep.cli.conditions import list_required_arguments
from fewstep.cli.tables import table
from fewstep.fitting.feature_tradeoff import Trade
from fewstep.fitting.fit_result import FitResult
from fewstep.fitting.judgement import FitScore
from fewstep.fitting.options import FitOptions
from fewstep.measure.distances.frechet import SetComparison
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS, PAIRED
from fewstep.plans.errors import quote_path
from fewstep.plans.guidance import weight_of
from fewstep.plans.names.plan_reference import FittedReference


def fit_table(result: FitResult) -> Table:
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


def describe_rejection(options: FitOptions, result: FitResult) -> str:
    """Describe why the plan was rejected: no change improved it, its gain is too small (with the seeds that show it),
    or it is worse than the previous fit."""
    kept = result.nominal if result.over_previous is None else f"the previous {FittedReference(options.steps)}"
    if result.score is not None and result.score.problem is not None:
        return f"{result.nominal} is kept: {result.score.problem}"
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
    assert result.over_previous is not None
    loss = f"{-result.over_previous.mean:.2f} ± {result.over_previous.error:.2f} dB"
    return f"{kept} is kept: the new plan is {loss} worse on the judge seeds"


def _format_gain(result: FitResult) -> str:
    return f"{result.on_judge.mean:+.2f} ± {result.on_judge.error:.2f}"


def describe_score(result: FitResult, score: FitScore) -> str:
    """Return a sentence about the scores of both plans by the user's judge."""
    gain = "" if score.gain is None else f", a gain of {score.gain.mean:+.3g} ± {score.gain.error:.2g}"
    nominal, own = score.nominal.score.value, score.fitted.float32.value
    return f"fitted {score.fitted.text}; {result.nominal} scores {nominal:.4g}{gain}, and the teacher itself {own:.4g}"


def describe_trade(trade: Trade) -> str:
    """Return a sentence about the PSNR that the last stage of the fit gives up, and what it gains for it."""
    features = f"{trade.features:+.2f} dB of features at weight {trade.weight:g}, and " if trade.weight else ""
    energy = f"a factor of {trade.factor:.4f} towards the teacher's energy"
    part = "" if trade.factor == trade.energy else f" (the full factor is {trade.energy:.4f})"
    return f"trade-off: {-trade.price:+.2f} dB of PSNR on the selection seeds for {features}{energy}{part}"


def describe_sets(result: FitResult, sets: SetComparison) -> str:
    """Describe the distance of the samples as a set, with a warning if it grew by more than chance."""
    far = f"{sets.frechet_paired:.2f}, fitted {sets.frechet:.2f} ({sets.difference:+.2f} ± {sets.error:.2f})"
    warning = ": as a set, these samples are further from the teacher's" * result.are_sets_further
    return f"FD({result.features}) to the teacher, same seeds: {far}{warning}"


def command_of(options: FitOptions, result: FitResult) -> str:
    """Return the command that samples along the fitted plan, or along the nominal plan if no fitted plan is saved. It
    has an example value of each required condition."""
    plan = result.nominal if result.plan is None or not result.is_kept else f"{FittedReference(options.steps)}"
    return sampling_command(options, plan, options.guidance if result.plan is None else weight_of(result.plan.guidance))


def sampling_command(options: FitOptions, plan: str, weight: float | None) -> str:
    """Return the command that samples along a plan, with the file of conditions or an example value of each required
    condition."""
    words = [f"fewstep run {quote_path(options.bundle)} --plan {quote(plan)}"]
    words += [f"--backend {options.backend}"] * (options.backend != "onnxruntime")
    words += [] if weight is None else [f"--guidance {weight:g}"]
    return " ".join([*words, *list_required_arguments(options.open().manifest, options.conditions)])
