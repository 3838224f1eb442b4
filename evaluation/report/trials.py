"""The page's section on the samples that judged bodies while they were calibrated."""

from collections.abc import Mapping

from fewstep.evaluation.report.elements import Html, count, decibel, paragraph, section, table
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.networks import networks, said
from fewstep.runtime.bundle.reading import Bundle

Trials = Mapping[str, Trial]
HEAD = ("body", "ranges", "mean", "5th percentile", "seeds")


def shown_trials(bundle: Bundle, plan: str) -> Trials:
    """The samples of the bodies that were calibrated along this plan, by body: of each network with the others in
    float32."""
    return {
        said(network, name): trial
        for network in networks(bundle.manifest)
        for name, body in bundle.network(network).manifest.bodies.items()
        for trial in body.trials
        if trial.is_chosen and body.plan == plan
    }


def trials_section(trials: Trials) -> Html:
    """A row for each body."""
    lead = paragraph("Calibration made these samples with each body, closed loop against float32.", kind="lead")
    rows = [
        (name, each.ranges, decibel(each.psnr), decibel(each.p5), count(each.seeds)) for name, each in trials.items()
    ]
    return section("Samples of calibration", lead, table(HEAD, rows, text_columns=2))
