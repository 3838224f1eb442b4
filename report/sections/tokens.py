"""The page's section on tokens: how often each body agrees with float32, at each step and in finished samples."""

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

HEAD = ("int8 against float32, same plan", "computed by", "top token differs", "same at the end", "dB", "p5", "seeds")
STEP = ("step", "masked", "range group", "top token differs", "KL divergence (nats)")


def tokens_section(qualities: Sequence[Quality]) -> Html:
    """Return the section for token denoisers: a table with one row per body, then the steps of each. Every quality must
    have `tokens`."""
    lead = lead_paragraph(
        "One token that differs changes all later tokens, so bodies are compared at the states of float32's run. "
        "Top token differs: the share of masked positions with another most likely token. dB: the variance of the log "
        "probabilities over their error. Same at the end: the share of equal tokens in finished samples, when each "
        "body runs by itself from the same seeds."
    )
    rows, parts = list[Sequence[Content]](), list[Html]()
    for quality in qualities:
        if (own := quality.tokens) is not None:
            end = quality.against_float
            shares = percent(own.disagreement, 2), percent(own.same)
            rows.append(
                [quality.body, quality.computed_by, *shares, decibel(end.mean), decibel(end.p5), count(end.seeds)]
            )
            parts.append(_steps(quality.body, own))
    return section("Tokens", lead, table(HEAD, rows, text_columns=2), *parts)


def _steps(body: str, tokens: TokenQuality) -> Html:
    numbers = [step.index + 1 for step in tokens.steps]
    curve = Series(body, numbers, [100 * step.disagreement for step in tokens.steps], 0)
    drawn = Html(plots.line_plot([curve], "step, from all masked to none", "top token differs (%)", x_ticks=numbers))
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
