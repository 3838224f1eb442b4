"""An option that is gone names its successor, and the successor is an option."""

import pytest

from fewstep.cli.main import main
from fewstep.cli.removed import REMOVED
from tests.verbs_page import flags

ALL = [(verb, name) for verb, removed in REMOVED.items() for name in removed]


@pytest.mark.parametrize(("verb", "name"), ALL)
def test_a_removed_option_names_its_successor(verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    successor = REMOVED[verb][name]
    for arguments in ([verb, "b", name, "1"], [verb, "b", f"{name}=1"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"fewstep: {verb} has no option {name}; give {successor}\n"
    assert name not in flags(verb)


def test_an_option_of_another_verb_is_its_own() -> None:
    assert "--negative" in REMOVED["export"] and "--negative" in flags("run")
