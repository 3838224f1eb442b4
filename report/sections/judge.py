"""The page's section on the user's judge: the score of each body, its limit, and the score of float32 itself."""

from fewstep.measure.results import Results
from fewstep.report.elements import Content, Html, card, count, data, join, section, table
from fewstep.report.glossary import lead_paragraph, link_terms
from fewstep.report.sections.quality import NONE
from fewstep.runtime.bundle.figures import JudgeScore

HEAD = ["body", "score", "on other seeds", "limit", "float32 itself", "seeds"]


def judge_card(judged: JudgeScore) -> Html:
    """Return the card of a score at the top of the page."""
    note = join(["limit ", _number(judged.score.limit), ", float32 itself ", _number(judged.float32.value)])
    return card(link_terms(f"Score by {judged.score.name}"), _number(judged.score.value), note)


def judge_section(results: Results) -> Html | None:
    """Return the section on the judge; None if the user gave none."""
    judged = {quality.body: quality.judged for quality in results.qualities if quality.judged is not None}
    if not judged:
        return None
    name = next(iter(judged.values())).score.name
    lead = lead_paragraph(
        f"The verdict is that of {name}, a measure that the user gave. Higher is better, and the limit is the lowest "
        "score that is good enough. float32 itself is scored with its own samples in place of those of the body."
    )
    return section("Judge", lead, table(HEAD, [[body, *_cells(scores)] for body, scores in judged.items()]))


def _cells(judged: JudgeScore) -> list[Content]:
    ends = judged.score_range
    spread: Content = NONE if ends is None else join([_number(ends[0]), " to ", _number(ends[1])])
    numbers = [_number(score) for score in (judged.score.limit, judged.float32.value)]
    return [_number(judged.score.value), spread, *numbers, count(judged.seeds)]


def _number(value: float) -> Html:
    return data(value, f"{value:.4g}")
