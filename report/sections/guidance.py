"""The page's section on guidance and conditions: how much of their effect a body keeps."""

from fewstep.measure.results import Quality, Results
from fewstep.measure.rollouts.output_differences import describe_difference, worst_difference
from fewstep.report.elements import Html, count, decibel, details, join, paragraph, percent, plain, section, table
from fewstep.report.glossary import lead_paragraph, link_terms
from fewstep.report.verdict import differences_of

HEAD = ("step", "gain", "signal to error", "of the sample")


def guidance_section(results: Results) -> Html | None:
    """Return the section with one table for each body and each difference, of guidance and of conditions. None if no
    difference was measured, as for a denoiser without conditions."""
    parts = [part for quality in results.qualities for part in _body(quality)]
    if not parts:
        return None
    lead = lead_paragraph(
        "Guidance amplifies the direction from the unconditional output to the conditional output. An int8 body may "
        "lose this direction while its samples look plausible. The second difference is between a sample's condition "
        "and another sample's. Both are measured at the states of float32's trajectory. A gain of 1 keeps the whole "
        "difference. Below 0 dB, the error of int8 is larger than the difference. If the difference is a small part "
        "of the predicted sample, guidance amplifies the error of int8 as well."
    )
    return section("Guidance and conditions", lead, *parts)


def _body(quality: Quality) -> list[Html]:
    parts = []
    for kind, steps in differences_of(quality).items():
        rows = [
            (count(step.step + 1), plain(step.gain), decibel(step.ratio), percent(step.share)) for step in steps if step
        ]
        if (lowest := worst_difference(steps)) is not None:
            sentence = link_terms(f"{kind}, at its worst step: {describe_difference(lowest)}")
            title = paragraph(Html("<b>"), quality.body, Html("</b>: "), sentence)
            parts.append(join([title, details("All steps", table(HEAD, rows, text_columns=0))]))
    return parts
