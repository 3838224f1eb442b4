"""The page's section on bad samples: how much of the distance to the teacher each single change would take away."""

from collections.abc import Sequence

from fewstep.evaluation.report.elements import Content, Html, data, decibel, paragraph, section, table
from fewstep.evaluation.results import Change, Results

TITLE = "Steps, grid, guidance or int8?"
NAMES: dict[Change, str] = {
    "steps": "twice as many steps",
    "grid": "the default grid of new bundles",
    "guidance": "no guidance, on both sides",
    "fit": "a fitted plan",
}
WORTH = 1.0  # dB: smaller gains are not seen


def remedies_section(results: Results) -> Html:
    """A line for each change, and a sentence on the largest gain."""
    first, floats = results.qualities[0], results.float_against_teacher.mean
    deployed = first.against_teacher.mean
    rows: list[Sequence[Content]] = [
        ["as deployed", f"{first.body}, {results.plan}", decibel(deployed), ""],
        ["float32 in place of int8", results.plan, decibel(floats), _gain(floats - deployed)],
    ]
    rows += [
        [NAMES[each.change], each.plan, decibel(each.psnr), _gain(each.psnr - floats)] for each in results.remedies
    ]
    lead = (
        "Each line makes one change, and the last column is its gain: float32 over int8, then other plans over "
        "this one in float32. Gains of two changes do not add up."
    )
    head = ["change", "plan", "mean PSNR to the teacher", "gain"]
    return section(
        TITLE, paragraph(lead, kind="lead"), table(head, rows, text_columns=2), paragraph(verdict(results), kind="note")
    )


def verdict(results: Results) -> str:
    """The change that wins most, in a sentence."""
    floats = results.float_against_teacher.mean
    gains = {"float32 in place of int8": floats - results.qualities[0].against_teacher.mean}
    gains |= {NAMES[each.change]: each.psnr - floats for each in results.remedies}
    best = max(gains, key=gains.__getitem__)
    if not gains[best] >= WORTH:
        has_steps = any(each.change == "steps" for each in results.remedies)
        left = "what is left is the denoiser's own" if has_steps else "more steps were not tried"
        return f"None of these changes wins {WORTH:g} dB: {left}."
    return f"The largest gain is {gains[best]:.1f} dB: {best}."


def _gain(value: float) -> Html:
    return data(value, f"{value:+.1f} dB")
