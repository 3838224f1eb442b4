"""The commands that lab/compositions.md has for published methods: their options, plans and guidance are
known."""

import re
import shlex
from pathlib import Path

import pytest

from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.names.plan_reference import SchedulerReference, parse_plan_text
from fewstep.runtime.sampling.request import RunSettings
from tests.docs import verbs_page

PAGE = Path(__file__).parents[2] / "lab/compositions.md"
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in PAGE.read_text().partition("## Published methods")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "method |" not in line
]
COMMANDS = [(row[0], command) for row in ROWS for command in re.findall(r"`(fewstep [^`]+)`", row[1])]


@pytest.mark.parametrize(("method", "command"), COMMANDS)
def test_the_command_of_a_method_is_understood(method: str, command: str) -> None:
    words = shlex.split(command)
    assert words[1] == "run"
    options = [word for word in words if re.match(r"--?[a-z]", word)]
    assert {*options} <= verbs_page.flags("run")
    values = dict(zip(words, words[1:]))
    if not isinstance(parse_plan_text(values["--plan"]), SchedulerReference):
        assert parse_plan_name(values["--plan"]).solver  # UserError for a solver that is not known
    assert ".npy" not in command or values["-o"].endswith(".npy")  # latents and spectrograms are no pictures
    assert "--guidance" not in values or from_text(values["--guidance"]) == CfgPlusPlus(0.6)


def test_the_table_has_a_command_for_each_kind_of_method() -> None:
    names = " ".join(row[0] for row in ROWS)
    for kind in ("CFG++", "guided", "Lotus-G", "Lotus-D", "Marigold", "one step", "two to four", "StoRM"):
        assert kind in names
    assert len(COMMANDS) == 9


def test_storm_samples_without_corrections() -> None:
    (command,) = (command for method, command in COMMANDS if method.startswith("StoRM") and "score" in command)
    assert "sgmse(corrections=0):30@linspace" in shlex.split(command)


def test_lotus_d_in_python_has_arguments_of_sample() -> None:
    (text,) = (row[1] for row in ROWS if row[0].startswith("Lotus-D"))
    named = re.findall(r"(\w+)=", text)
    assert named == ["given", "strength", "renoise"] and {*named} <= {*RunSettings.__annotations__}
