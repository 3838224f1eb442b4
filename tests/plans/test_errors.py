"""What is printed of a failure is one line, whatever a damaged file has put into it."""

from fewstep.plans.errors import LONGEST, UserError, printable


def test_a_message_is_one_printable_line():
    error = UserError("field 'a\nb' holds\t\x1b[31mred\x00 and \u2028 more", "write  it\nagain")
    assert str(error) == "field 'a b' holds \\x1b[31mred\\x00 and more; write it again"
    assert (error.what, error.fix) == tuple(str(error).split("; "))


def test_ordinary_text_stays_as_it_is():
    assert str(UserError("é is no 8-bit number in 'x0'", "give 1.5")) == "é is no 8-bit number in 'x0'; give 1.5"


def test_of_a_long_text_both_ends_are_shown():
    error = UserError("a" * 500_000 + ": no such file", "give " + ", ".join(map(str, range(100_000))))
    assert len(str(error)) < 2 * (LONGEST + 50)
    assert error.what.startswith("aaa") and error.what.endswith(": no such file")
    assert f" [{500_014 - LONGEST} characters left out] " in error.what
    assert printable("x" * LONGEST) == "x" * LONGEST


def test_spaces_and_marks_of_a_printed_text_stay():
    assert printable("    pip install  'a[b]'") == "    pip install  'a[b]'"
    assert printable("one\ntwo\x9b2J\udcff") == "one\\ntwo\\x9b2J\\udcff"
