"""The fix of an option that names none of several networks."""

from fewstep.plans.names.network_name import list_choices


def test_the_steps_of_two_networks_are_named() -> None:
    assert list_choices("a", ("c", "b")) == "give a@b for the noisiest steps or a@c for those after them"


def test_the_steps_of_more_than_two_networks_are_not_named() -> None:
    assert list_choices("a", ("c", "a", "b")) == "give a@a, a@b or a@c"
