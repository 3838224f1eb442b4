"""The page's section on what guidance multiplies, and on what a condition changes: how much of it a body keeps."""

from fewstep.measure.results import Quality, Results
from fewstep.measure.rollouts.output_differences import describe_difference, worst_difference
from fewstep.report.elements import Html, count, decibel, details, join, paragraph, percent, plain, section, table
from fewstep.report.glossary import lead_paragraph, link_terms
from fewstep.report.verdict import differences_of

HEAD = ("step", "gain", "signal to error", "of the sample")


def guidance_section(results: Results) -> Html | None:
    """A table for each body and each of its differences; None where there is none, as without conditions."""
    parts = [part for quality in results.qualities for part in _body(quality)]
    if not parts:
        return None
    lead = lead_paragraph(
        "Guidance multiplies the direction from the unconditional output to the conditional one. A body may lose it "
        "while its samples look fair. The second difference is between a sample's own condition and another sample's. "
        "Both bodies see the states of float32's trajectory. A gain of 1 keeps the whole difference. Below 0 dB, "
        "int8 adds more than the difference has. Where the difference is a small part of the predicted "
        "sample, guidance multiplies the noise of int8 too."
    )
    return section("Guidance and conditions", lead, *parts)


def _body(quality: Quality) -> list[Html]:
    parts = []
    for kind, steps in differences_of(quality).items():
        rows = [
            (count(each.step + 1), plain(each.gain), decibel(each.ratio), percent(each.share)) for each in steps if each
        ]
        if (lowest := worst_difference(steps)) is not None:
            sentence = link_terms(f"{kind}, at its worst {describe_difference(lowest)}")
            title = paragraph(Html("<b>"), quality.body, Html("</b>: "), sentence)
            parts.append(join([title, details("All steps", table(HEAD, rows, text_columns=0))]))
    return parts
