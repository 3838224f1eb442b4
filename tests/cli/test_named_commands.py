"""Messages name verbs that exist."""

import re

import pytest

from fewstep.cli.verbs import VERBS
from fewstep.runtime.machine.packages import EXTRAS
from tests.packages import module_files

COMMAND = re.compile(r"(?:[`\"]|: )fewstep ([a-z]+)\b")
SENTENCES = {"are", "builds", "can", "does", "has", "is", "metadata", "needs", "reads", "supports"}  # of fewstep itself


def test_commands_in_messages_are_verbs() -> None:
    named = {verb: file for file in module_files() for verb in COMMAND.findall(file.read_text())}
    assert {"calibrate", "run", "doctor", "serve"} <= named.keys()
    assert {verb: file for verb, file in named.items() if verb not in {*VERBS} | SENTENCES} == {}


@pytest.mark.parametrize("extra", [name for name, (what, _) in EXTRAS.items() if what.startswith("fewstep ")])
def test_the_verbs_of_an_extra_exist(extra: str) -> None:
    words = re.findall(r"\b[a-z]+\b", EXTRAS[extra][0].removeprefix("fewstep "))
    assert {*words} - {"and"} <= {*VERBS}
