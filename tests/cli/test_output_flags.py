"""--json, --quiet, --verbose and --debug have the same effect for every verb, at any place in the line."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.cli.outcome import Outcome, print_outcome, to_json
from fewstep.cli.output_flags import OutputOptions, split_flags
from fewstep.cli.run.sampling import RunSamples
from fewstep.measure.estimate import Estimate
from tests.cli.conftest import Command, Document

RUN = ("-n", "1", "-c", "class=0")


def test_flags_may_stand_anywhere() -> None:
    assert split_flags(["--json", "run", "b", "-q", "-c", "a=1"]) == (
        OutputOptions(json=True, quiet=True),
        ["run", "b", "-c", "a=1"],
    )
    assert split_flags(["run", "-v", "--debug"]) == (OutputOptions(verbose=True, debug=True), ["run"])
    assert split_flags(["run", "--", "--json"]) == (OutputOptions(), ["run", "--", "--json"])


def test_a_result_is_one_document(tiny_bundle: Path, tmp_path: Path, document: Document) -> None:
    output = tmp_path / "x.npy"
    found = document("run", tiny_bundle, *RUN, "-o", output)
    assert found["output"] == str(output) and found["shape"] == [1, 1, 4, 4]
    assert document("verify", tiny_bundle)["graphs"] == 3


def test_an_error_is_one_document_with_its_fix(tmp_path: Path, document: Document) -> None:
    found = document("run", tmp_path / "no", code=1)
    assert found == {
        "error": f"there is no bundle {tmp_path / 'no'}",
        "fix": f"make one: fewstep export SOURCE -o {tmp_path / 'no'}",
    }
    assert document("frobnicate", code=2)["error"] == "unknown verb 'frobnicate'"
    assert "--frob" in document("run", "b", "--frob", code=2)["error"]


def test_help_is_a_document_too(document: Document) -> None:
    assert "inspect" in document()["help"]
    assert "--guidance" in document("run", "--help")["help"]


def test_what_a_verb_prints_on_the_way_stays_out_of_the_document(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talkative(*_: object) -> RunSamples:
        sys.stdout.write("loading weights\n")
        return RunSamples(np.zeros((1, 1, 4, 4), np.float32), "ddim:2", {})

    monkeypatch.setattr("fewstep.cli.verbs.run.sample_to_files", talkative)
    printed, said = fewstep("run", tiny_bundle, "--json")
    assert json.loads(printed)["shape"] == [1, 1, 4, 4] and said == "loading weights\n"


def test_an_interrupt_and_a_bug_are_documents_too(
    tiny_bundle: Path, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raised, code, said in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd"), 70, "RuntimeError: odd"),
    ):

        def broken(*_: object, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr("fewstep.cli.verbs.run.sample_to_files", broken)
        assert said in document("run", tiny_bundle, code=code)["error"]


def test_quiet_is_silent_unless_something_fails(tiny_bundle: Path, tmp_path: Path, fewstep: Command) -> None:
    assert fewstep("run", tiny_bundle, *RUN, "-o", tmp_path / "x.npy", "--quiet") == ("", "")
    assert fewstep("verify", tmp_path, "-q", code=1).err.startswith("fewstep: ")


def test_what_the_library_logs_is_heard_as_loudly_as_asked(
    tiny_bundle: Path, tmp_path: Path, fewstep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(*_: object) -> RunSamples:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("fewstep").log(level, "at %d", level)
        return RunSamples(np.zeros((1, 1, 4, 4), np.float32), "ddim:2", {})

    monkeypatch.setattr("fewstep.cli.verbs.run.sample_to_files", chatty)
    for flags, heard in (((), [30]), (("-v",), [20, 30]), (("--debug",), [10, 20, 30]), (("-q",), [])):
        assert fewstep("run", tiny_bundle, *flags).err.splitlines() == [f"fewstep: at {level}" for level in heard]
    assert not logging.getLogger("fewstep").handlers


@pytest.mark.parametrize(("seconds", "said"), [(19.9, ""), (20.0, "20 seconds"), (7200.0, "2.0 hours")])
def test_what_takes_long_says_so_before(
    tiny_bundle: Path, fewstep: Command, monkeypatch: pytest.MonkeyPatch, seconds: float, said: str
) -> None:
    def announcing(*_: object) -> RunSamples:
        Estimate(8, seconds - 5, timing=5.0).announce()
        return RunSamples(np.zeros((1, 1, 4, 4), np.float32), "ddim:2", {})

    monkeypatch.setattr("fewstep.measure.estimate.measure_load", lambda: 1.0)
    monkeypatch.setattr("fewstep.cli.verbs.run.sample_to_files", announcing)
    line = f"fewstep: this takes up to {said}: 8 evaluations of one sample, and 5 seconds of timing\n" if said else ""
    for flags, heard in (((), line), (("-q",), "")):
        assert fewstep("run", tiny_bundle, *flags).err == heard


def test_a_document_holds_what_json_has_no_form_for() -> None:
    class Inner(msgspec.Struct):
        value: float

    found = json.loads(to_json({"path": Path("a/b"), "nan": float("nan"), "count": np.int64(3), "inner": Inner(1.5)}))
    assert found == {"path": "a/b", "nan": None, "count": 3, "inner": {"value": 1.5}}


def test_tables_and_lines_are_shown_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    made = Table("x")
    made.add_row("1")
    print_outcome(Outcome(None, ("[first]", made, "last")), OutputOptions())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[first]" and lines[-1] == "last" and len(lines) > 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell with pipes")
def test_a_reader_that_leaves_is_no_error() -> None:
    line = f"{sys.executable} -m fewstep.cli plan --show ddim:500 | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("ddim:500") and done.stderr == ""
