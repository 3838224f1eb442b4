"""The glossary of the page: terms link to their definitions at the end of the page."""

import re
from html import escape

from fewstep.report.elements import Html, join, paragraph, section

WORDS = {  # each term -> its other forms on the page, and its definition
    "body": (
        ("bodies",),
        "The graph that runs at every step, in one precision, such as float32, or int8 for one kind of CPU.",
    ),
    "closed loop": ((), "Each precision runs its own trajectory from the same noise, so errors accumulate as in use."),
    "evaluation": (("evaluations",), "One call of the network. Most solvers need one per step, some need several."),
    "float32": ((), "32-bit floating point, the precision of training and the reference for int8."),
    "gain": (("gains",), "The share of a difference that int8 keeps: 1 is all of it, 0 is none."),
    "guidance": (
        (),
        "Classifier-free guidance or a variant: the network runs with and without its condition, and a weight "
        "amplifies the difference.",
    ),
    "held-out": ((), "Not used in calibration, so nothing was tuned on them."),
    "int8": ((), "8-bit integers, for weights and activations."),
    "lambda": ((), "log(alpha / sigma), half the log signal-to-noise ratio of a step. It grows from noise to clean."),
    "MACs": (
        ("multiply-accumulates",),
        "Multiply-accumulate operations, which measure the work of convolutions and matrix products.",
    ),
    "plan": (
        ("plans",),
        "The compiled sampler of a run, named SOLVER:STEPS@GRID. The grid chooses the times of the steps.",
    ),
    "PSNR": (
        (),
        "Peak signal-to-noise ratio: the range of values over the RMS error, in dB. 20 dB is an error of 10 %, "
        "40 dB of 1 %.",
    ),
    "range group": (
        ("range groups",),
        "Consecutive steps that share quantization ranges. A range is the interval that the 256 codes of int8 cover.",
    ),
    "SSIM": ((), "Structural similarity of two images. 1 means that they are equal."),
    "signal to quantization noise": (
        ("SQNR",),
        "Signal-to-quantization-noise ratio: the values over the error of int8, in dB. 20 dB is an error of 10 %.",
    ),
    "teacher": (
        ("many steps",),
        "float32 with many steps, of which more would hardly change the samples. It is the reference for few steps.",
    ),
    "teacher-forced": (
        ("forced",),
        "Each step of int8 starts from float32's state, so that the errors of steps do not accumulate.",
    ),
}
FORMS = {form.lower(): word for word, (others, _) in WORDS.items() for form in (word, *others)}
PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(FORMS, key=len, reverse=True))})(?![\w-])", re.IGNORECASE)


def link_terms(text: str) -> Html:
    """Return a text in which the first occurrence of each term links to its definition."""
    seen = set[str]()

    def link(match: re.Match[str]) -> str:
        word = FORMS[match[0].lower()]
        if word in seen:
            return match[0]
        seen.add(word)
        return f'<a href="#{_anchor(word)}">{match[0]}</a>'

    return Html(PATTERN.sub(link, escape(text)))


def lead_paragraph(text: str) -> Html:
    """Return the first paragraph of a section, with its terms linked."""
    return paragraph(link_terms(text), kind="lead")


def glossary_section(above: Html) -> Html:
    """Return the definitions of the terms that the sections above link to."""
    used = [word for word in WORDS if f'href="#{_anchor(word)}"' in above.markup]
    meanings = (f'<dt id="{_anchor(word)}">{word}</dt><dd>{escape(WORDS[word][1])}</dd>' for word in used)
    return section("Glossary", Html(f'<dl class="words">{join(map(Html, meanings)).markup}</dl>'))


def _anchor(word: str) -> str:
    return f"word-{word.replace(' ', '-')}"
