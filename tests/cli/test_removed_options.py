"""A removed option names its successor, which exists."""

import pytest

from fewstep.cli.removed_options import REMOVED
from tests.cli.conftest import Command
from tests.docs.verbs_page import flags
from tests.refusals import assert_refusal

ALL = [(verb, name) for verb, removed in REMOVED.items() for name in removed]


@pytest.mark.parametrize(("verb", "name"), ALL)
def test_a_removed_option_names_its_successor(verb: str, name: str, fewstep: Command) -> None:
    successor = REMOVED[verb][name]
    for arguments in ([verb, "b", name, "1"], [verb, "b", f"{name}=1"]):
        assert_refusal(fewstep(*arguments, code=2).err, names=(verb, name), fix=successor)
    assert name not in flags(verb)


def test_an_option_of_another_verb_is_its_own() -> None:
    assert "--negative" in REMOVED["export"] and "--negative" in flags("run")
