"""The page's words: a term of the field links to its meaning, which stands at the end of the page."""

import re
from html import escape

from fewstep.report.elements import Html, join, paragraph, section

WORDS = {  # a word -> its other forms on the page, and its meaning
    "body": (("bodies",), "A form of the network that a program runs, such as float32, or int8 for one kind of CPU."),
    "closed loop": ((), "Each precision runs by itself from the same noise. Its errors add up, as in use."),
    "evaluation": (("evaluations",), "One call of the network. A step takes one, or a few with some solvers."),
    "float32": ((), "Floating point of 32 bits, as the network was trained: the reference of int8."),
    "gain": (("gains",), "How much of a difference int8 keeps: 1 is all of it, 0 is nothing."),
    "guidance": ((), "The network runs with and without its condition. A weight enlarges the difference of both."),
    "held-out": ((), "Kept out of calibration, so that nothing was chosen by them."),
    "int8": ((), "Whole numbers of 8 bits, for weights and for what flows between layers."),
    "lambda": ((), "log(alpha / sigma): how far a step's signal is above its noise. It grows from noise to clean."),
    "MACs": (
        ("multiply-accumulates",),
        "Multiply-accumulates: a product that is added to a sum. Layers consist of them, so they count the work.",
    ),
    "plan": (("plans",), "What a run follows, as SOLVER:STEPS@GRID. The grid chooses the times of the steps."),
    "PSNR": ((), "The range of values over the mean error, in decibels. 20 dB is an error of 10 %, 40 dB of 1 %."),
    "range group": (("range groups",), "Steps that share the ranges of int8. A range is what its 256 codes cover."),
    "SSIM": ((), "Likeness of the structure in two pictures. 1 is equality."),
    "signal to quantization noise": (
        ("SQNR",),
        "The values over what int8 changes in them, in decibels. 20 dB is a change of 10 %, 40 dB of 1 %.",
    ),
    "teacher": (("many steps",), "float32 in so many steps that more hardly change it. It stands for exact samples."),
    "teacher-forced": (("forced",), "Each step of int8 begins where float32 is, so that errors cannot add up."),
}
FORMS = {form.lower(): word for word, (others, _) in WORDS.items() for form in (word, *others)}
PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(FORMS, key=len, reverse=True))})(?![\w-])", re.IGNORECASE)


def link_terms(text: str) -> Html:
    """A text whose words link to their meanings, each where it stands first."""
    seen = set[str]()

    def link(match: re.Match[str]) -> str:
        word = FORMS[match[0].lower()]
        if word in seen:
            return match[0]
        seen.add(word)
        return f'<a href="#{_anchor(word)}">{match[0]}</a>'

    return Html(PATTERN.sub(link, escape(text)))


def lead_paragraph(text: str) -> Html:
    """The first paragraph of a section, with its words linked."""
    return paragraph(link_terms(text), kind="lead")


def glossary_section(above: Html) -> Html:
    """The meanings of the words that the sections above link to."""
    used = [word for word in WORDS if f'href="#{_anchor(word)}"' in above.markup]
    meanings = (f'<dt id="{_anchor(word)}">{word}</dt><dd>{escape(WORDS[word][1])}</dd>' for word in used)
    return section("Words", Html(f'<dl class="words">{join(map(Html, meanings)).markup}</dl>'))


def _anchor(word: str) -> str:
    return f"word-{word.replace(' ', '-')}"
