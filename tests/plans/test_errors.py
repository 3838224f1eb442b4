"""What is printed of a failure is one line, whatever a damaged file has put into it."""

from fewstep.plans.errors import UserError


def test_a_message_is_one_printable_line():
    error = UserError("field 'a\nb' holds\t\x1b[31mred\x00 and \u2028 more", "write  it\nagain")
    assert str(error) == "field 'a b' holds \\x1b[31mred\\x00 and more; write it again"
    assert (error.what, error.fix) == tuple(str(error).split("; "))


def test_ordinary_text_stays_as_it_is():
    assert str(UserError("é is no 8-bit number in 'x0'", "give 1.5")) == "é is no 8-bit number in 'x0'; give 1.5"
