"""Ctrl-C at any time gives one line and exit code 130."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import as_in_a_terminal

TURNS = f"--columns ms --batches {','.join(['1'] * 200)} --rounds 1 --turn-seconds 0.01"
LINES = {  # commands that take long, and tell of their first piece of work
    "sampling": ("run", "-n", "100000", "-c", "class=0", "--output", "x.npy"),
    "timing in other processes": ("measure", *TURNS.split()),
}


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("name", LINES)
def test_an_interrupt_is_one_line(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    verb, *options = LINES[name]
    command = [sys.executable, "-m", "fewstep.cli", verb, str(tiny_bundle), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=as_in_a_terminal
    )
    assert process.stderr is not None and process.stderr.readline()
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130 and printed == ""
    assert said.splitlines()[-1] == "fewstep: interrupted; bundles are intact: run the same command again"
    assert "Traceback" not in said and not (tmp_path / "x.npy").exists()


SWALLOWING = """
import os, signal, sys, weakref
class Library: pass
def interrupt(*_): signal.raise_signal(signal.SIGINT)
class Interrupting:
    def find_spec(self, name, *_):
        if name != "onnxruntime": return
        sys.meta_path.remove(self)
        {swallow}
sys.meta_path.insert(0, Interrupting())
from fewstep.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
IN_A_CALLBACK = "library = Library(); reference = weakref.ref(library, interrupt); del library"
IN_A_CATCH = """try: interrupt()
        except BaseException: pass"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("swallow", [IN_A_CALLBACK, IN_A_CATCH], ids=["callback", "catch"])
def test_an_interrupt_that_a_library_swallows_is_one_line_and_nothing_is_written(
    tiny_bundle: Path, tmp_path: Path, swallow: str
) -> None:
    options = ("-n", "2", "-c", "class=0", "-o", "x.npy")
    command = [sys.executable, "-c", SWALLOWING.format(swallow=swallow), "run", str(tiny_bundle), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, preexec_fn=as_in_a_terminal)
    assert done.returncode == 130 and done.stdout == "", done.stderr
    assert done.stderr == "fewstep: interrupted; bundles are intact: run the same command again\n"
    assert not (tmp_path / "x.npy").exists()
