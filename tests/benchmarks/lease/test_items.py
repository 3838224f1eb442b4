"""The builds of item `tests`: one that fails or hangs keeps no other from running, and is reported at the end."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.lease.items import build_forms

# In place of the interpreter: `-m fewstep.cli export NAME -o BUNDLE` and `build BUNDLE ... --precision PRECISION`.
INTERPRETER = """#!/bin/bash
case "$3" in
    export) mkdir -p "$6"; echo "{}" > "$6/manifest.json"; echo exported;;
    build) [ "${@: -1}" != "$BAD" ] || $DO || exit; echo "{\\"precision\\": \\"${@: -1}\\"}";;
esac
"""


@dataclass(frozen=True)
class Built:
    """How the commands ended, the precisions in forms.txt, and the text of forms_messages.txt."""

    status: int
    output: str
    precisions: list[str]
    messages: str


def build(folder: Path, bad: str = "none", do: str = "true", each: int = 60, total: int = 180) -> Built:
    """Run the commands. bad: the precision for which the interpreter first runs the command `do`."""
    interpreter, results = folder / "python", folder / "results"
    interpreter.write_text(INTERPRETER)
    interpreter.chmod(0o755)
    results.mkdir()
    variables = {"PYTHON": str(interpreter), "WORK": str(folder), "OUT": str(results), "BAD": bad, "DO": do}
    command = ["bash", "-euo", "pipefail", "-c", build_forms(each, total)]
    environment = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (results / "forms.txt").read_text().splitlines()
    precisions = [json.loads(line)["precision"] for line in lines]
    return Built(done.returncode, done.stdout, precisions, (results / "forms_messages.txt").read_text())


def test_two_denoisers_are_built_in_three_precisions(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.status == 0 and built.precisions == ["float16", "bfloat16", "float32"] * 2
    assert built.messages == "exported\n" * 2


def test_a_build_that_fails_keeps_no_other_from_running(tmp_path: Path) -> None:
    built = build(tmp_path, "bfloat16", "false")
    assert built.status == 1 and built.precisions == ["float16", "float32"] * 2
    assert built.messages.count("exit status 1 of fewstep build") == 2
    assert built.output.endswith("not every form was built: forms_messages.txt says why\n")


@pytest.mark.slow
def test_a_build_that_hangs_is_stopped_after_its_limit(tmp_path: Path) -> None:
    built = build(tmp_path, "float16", "sleep 20", each=1)
    assert built.status == 1 and built.precisions == ["bfloat16", "float32"] * 2
    assert built.messages.count("exit status 124 of fewstep build") == 2


def test_after_the_limit_of_all_commands_none_is_started(tmp_path: Path) -> None:
    built = build(tmp_path, total=0)
    assert built.status == 1 and not built.precisions
    assert built.messages.count("no time is left for fewstep export") == 2
