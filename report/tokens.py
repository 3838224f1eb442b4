"""The page's section on tokens: how far each body agrees with float32, step by step and at the end."""

from collections.abc import Sequence
from math import tanh

from fewstep.measure.results import Quality, TokenQuality
from fewstep.report.drawing import plots
from fewstep.report.drawing.plots import Series
from fewstep.report.elements import (
    Content,
    Html,
    count,
    decibel,
    details,
    figure,
    join,
    percent,
    plain,
    section,
    table,
)
from fewstep.report.glossary import lead_paragraph

HEAD = ("int8 against float32, same plan", "computed by", "likeliest differs", "same at the end", "dB", "p5", "seeds")
STEP = ("step", "open", "range group", "likeliest differs", "KL divergence (nats)")


def tokens_section(qualities: Sequence[Quality]) -> Html:
    """A row for each body, then its steps. All have `tokens`."""
    lead = lead_paragraph(
        "One token that differs changes all that follow, so bodies are compared at the states of float32's run. There, "
        "a share of the open positions has another likeliest token. dB is of logarithms of probabilities: their "
        "variance over their error. At the end of runs of their own, with the same seeds, some tokens are the same."
    )
    rows, parts = list[Sequence[Content]](), list[Html]()
    for each in qualities:
        if (own := each.tokens) is not None:
            end = each.against_float
            shares = percent(own.disagreement, 2), percent(own.same)
            rows.append([each.body, each.computed_by, *shares, decibel(end.mean), decibel(end.p5), count(end.seeds)])
            parts.append(_steps(each.body, own))
    return section("Tokens", lead, table(HEAD, rows, text_columns=2), *parts)


def _steps(body: str, tokens: TokenQuality) -> Html:
    numbers = [step.index + 1 for step in tokens.steps]
    curve = Series(body, numbers, [100 * step.disagreement for step in tokens.steps], 0)
    drawn = Html(plots.line_plot([curve], "step, from all open to none", "likeliest differs (%)", x_ticks=numbers))
    rows = [
        (
            count(step.index + 1),
            percent(1.0 if step.lam is None else (1 - tanh(step.lam / 2)) / 2, 0),
            count(step.group),
            percent(step.disagreement, 2),
            plain(step.divergence, 5),
        )
        for step in tokens.steps
    ]
    return join([figure(drawn, body), details("The same as a table", table(STEP, rows, text_columns=0))])
