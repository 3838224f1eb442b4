"""The page's section on the samples that judged bodies while they were calibrated."""

from collections.abc import Mapping

from fewstep.evaluation.report.elements import Content, Html, count, decibel, join, paragraph, section, table
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.networks import networks, said
from fewstep.runtime.bundle.reading import Bundle

Trials = Mapping[str, tuple[Trial, ...]]
HEAD = ("ranges", "", "mean", "5th percentile", "seeds")


def shown_trials(bundle: Bundle, plan: str) -> Trials:
    """The trials of the bodies that were calibrated along this plan, by body: of each network with the others in
    float32."""
    return {
        said(network, name): body.trials
        for network in networks(bundle.manifest)
        for name, body in bundle.network(network).manifest.bodies.items()
        if body.trials and body.plan == plan
    }


def trials_section(trials: Trials) -> Html:
    """A table for each body."""
    lead = paragraph(
        "Calibration made these samples with each body, closed loop against float32. Where an earlier version tried "
        "several ways, a way that was clearly behind has fewer seeds.",
        kind="lead",
    )
    return section("Samples of calibration", lead, *(_body(name, each) for name, each in trials.items()))


def tried(trial: Trial) -> str:
    """The ranges of a trial in words, with the other choices that earlier versions tried."""
    thin = f", {len(trial.in_float)} thin in float" if trial.in_float else ""
    return f"{trial.ranges}{thin}{', mean error of the output taken out' if trial.has_bias else ''}"


def _body(name: str, trials: tuple[Trial, ...]) -> Html:
    return join([paragraph(Html("<b>"), name, Html("</b>")), table(HEAD, map(_row, trials), text_columns=2)])


def _row(trial: Trial) -> tuple[Content, ...]:
    return (
        tried(trial),
        "deployed" if trial.is_chosen else "",
        decibel(trial.psnr),
        decibel(trial.p5),
        count(trial.seeds),
    )
