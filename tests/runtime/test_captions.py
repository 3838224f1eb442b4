"""Captions cleaned as by the pipelines of diffusers with ftfy 6.3 and beautifulsoup4 4.15, which made these texts."""

import pytest

from fewstep.runtime.captions import clean_caption, clean_html_caption


@pytest.mark.parametrize(
    ("prompt", "of_html", "of_text"),
    [
        ("  A  Small&amp;RED “Bird” on <i>it</i> ", 'a small red "bird" on it', 'a small;red "bird" on <i>it< i>'),
        ("see http://a.com/b?c=1 or WWW.site.org/x by @nick", "see ?c=1 or by", "see ?c=1 or by"),
        ("a ﬁne ｗｉｄｅ café — ‘so’ it's", "a fine wide café - 'so' it's", "a fine wide café - 'so' it's"),
        ("#12 jc6640 1024x768 192.168.0.1 file.png 1234567", "", ""),
        (
            "this-is-my-cute-cat, a_b... (very) [nice] {one}",
            "this is my cute cat, a b very nice one",
            "this is my cute cat, a b very nice one",
        ),
        ('"a quoted cat"', "a quoted cat", "a quoted cat"),
        ("漢字 a < b, 2.5×3 : free shipping; page 12", "a < b, : ;", "a < b, : ;"),
    ],
)
def test_captions_are_those_of_the_pipelines(prompt: str, of_html: str, of_text: str) -> None:
    assert (clean_html_caption(prompt), clean_caption(prompt)) == (of_html, of_text)


def test_the_text_of_a_script_is_left_out() -> None:
    assert clean_html_caption("a cat <script>let x</script>sleeps") == "a cat sleeps"
