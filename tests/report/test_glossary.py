"""The words of the page: linked at their first use, and explained once."""

import re

from fewstep.report.elements import Html
from fewstep.report.glossary import WORDS, glossary_section, link_terms


def test_each_word_links_once_in_a_text() -> None:
    said = link_terms("Lambda of a plan, and lambda again").markup
    assert said == '<a href="#word-lambda">Lambda</a> of a <a href="#word-plan">plan</a>, and lambda again'


def test_the_longest_form_is_taken_and_names_are_left_alone() -> None:
    assert link_terms("teacher-forced").markup == '<a href="#word-teacher-forced">teacher-forced</a>'
    assert link_terms("int8-cpu-x86 & explanations").markup == "int8-cpu-x86 &amp; explanations"
    assert link_terms("2 multiply-accumulates").markup == '2 <a href="#word-MACs">multiply-accumulates</a>'


def test_the_section_has_the_words_that_are_linked_and_no_others() -> None:
    shown = glossary_section(Html(link_terms("MACs in int8").markup)).markup
    assert re.findall(r"<dt id=\"word-([^\"]+)\">", shown) == ["int8", "MACs"]
    assert "Multiply-accumulate operations, which measure the work" in shown


def test_meanings_are_sentences_of_their_own() -> None:
    for word, (_, meaning) in WORDS.items():
        assert meaning.endswith(".") and len(meaning) > 40, word
        assert max(len(sentence.split()) for sentence in meaning.split(". ")) <= 25, word
