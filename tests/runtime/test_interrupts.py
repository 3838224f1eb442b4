"""An interrupt ends a command, even if a library converts its KeyboardInterrupt."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import as_in_a_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

LINE = "stopped"
BEGIN = """
import os, signal, sys, threading, time, weakref
from fewstep.runtime import interrupts
class Library: pass
def interrupt(*_): signal.raise_signal(signal.SIGINT)
def in_a_callback():  # as the import system and torch run them: Python drops what is raised there
    library = Library(); reference = weakref.ref(library, interrupt); del library
def in_a_catch():
    try: interrupt()
    except BaseException: pass
def later(seconds): threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, preexec_fn=as_in_a_terminal
    )


def end_of(body: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `body` in a command in a process, which ends with 130 and "stopped" if KeyboardInterrupt leaves the body."""
    lines = "\n".join(f"            {line}" for line in body.strip().splitlines())
    code = f"""{BEGIN}
{before}
def main():
    with interrupts.record_interrupts("{LINE}, insisted", 130):
        code = 0
        try:
{lines}
        except KeyboardInterrupt:
            print("{LINE}", file=sys.stderr, flush=True); code = 130
        return interrupts.end_with(code)
sys.exit(main())
"""
    return run(code)


def test_an_interrupt_in_a_weakref_callback_is_raised_after_it() -> None:
    done = end_of("in_a_callback()\nfor _ in range(500): time.sleep(0.01)\nprint('ran on')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{LINE}\n")


SLOW_RETRY = """
retry = interrupts._retry
def slow_retry():  # on a busy machine the interrupt comes again before the hook has returned
    interrupts._retry = retry
    retry(); time.sleep(0.3)
interrupts._retry = slow_retry
"""


def test_an_interrupt_that_comes_again_too_soon_is_raised_after_the_hook() -> None:
    done = end_of("in_a_callback()\nfor _ in range(500): time.sleep(0.01)\nprint('ran on')", SLOW_RETRY)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{LINE}\n")


def test_an_interrupt_that_is_caught_is_raised_by_the_check() -> None:
    done = end_of("in_a_catch()\nprint('ran on', flush=True)\ninterrupts.check_interrupted()\nprint('and on')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "ran on\n", f"{LINE}\n")


def test_no_interrupt_is_raised_without_one() -> None:
    done = end_of("interrupts.check_interrupted()\nprint('ran on')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran on\n", "")


def test_the_same_interrupt_sent_twice_is_one() -> None:
    done = end_of("try: interrupt()\nfinally:\n    in_a_catch(); interrupt(); print('cleaned up')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", f"{LINE}\n")


def test_a_second_interrupt_ends_a_cleanup_that_hangs() -> None:
    done = end_of("try: interrupt()\nfinally:\n    later(1.2)\n    time.sleep(50)\n    print('cleaned up')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{LINE}, insisted\n")


def test_a_cleanup_that_delays_interrupts_is_done_as_a_whole() -> None:
    cleanup = "with interrupts.delay_interrupts():\n    interrupt(); print('cleaned up', flush=True)\nprint('ran on')"
    done = end_of(cleanup)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", f"{LINE}\n")


def test_delayed_interrupts_of_one_cleanup_in_another_come_after_both() -> None:
    delay = "with interrupts.delay_interrupts():"
    done = end_of(f"{delay}\n    {delay}\n        interrupt()\n    print('cleaned up', flush=True)\nprint('ran on')")
    assert (done.returncode, done.stdout) == (130, "cleaned up\n")


def test_a_part_that_takes_long_allows_interrupts() -> None:
    allow = "        with interrupts.allow_interrupts():\n            {}; print('ran on')"
    cleanup = "    finally: print('cleaned up', flush=True)"
    body = f"with interrupts.delay_interrupts():\n    try:\n        {{}}\n{allow}\n{cleanup}"
    for done in (end_of(body.format("pass", "interrupt()")), end_of(body.format("interrupt()", "pass"))):
        assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", f"{LINE}\n")


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("interrupt()", 130)])
@pytest.mark.parametrize(
    "at_end", ["atexit.register(time.sleep, 50)", "threading.Thread(target=time.sleep, args=(50,)).start()"]
)
def test_an_interrupt_of_the_end_keeps_the_exit_code(body: str, code: int, at_end: str) -> None:
    """Nothing is left to do then, and the libraries take long to end."""
    done = end_of(f"import atexit\n{at_end}\nlater(0.3)\n{body}")
    assert done.returncode == code and "Traceback" not in done.stderr


def test_an_error_of_another_kind_in_a_callback_is_reported_as_before() -> None:
    done = end_of("library = Library(); reference = weakref.ref(library, lambda _: 1 / 0); del library")
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr


def test_a_command_after_another_in_one_process_is_interrupted() -> None:
    first = "with interrupts.record_interrupts('', 130): interrupts.end_with(0)"
    done = end_of("print('begun', flush=True)\ninterrupt()\nprint('ran on')", before=first)
    assert (done.returncode, done.stdout, done.stderr) == (130, "begun\n", f"{LINE}\n")


def test_the_previous_handlers_come_back() -> None:
    code = f"""{BEGIN}
before = sys.unraisablehook
try:
    with interrupts.record_interrupts("{LINE}", 130):
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
        interrupt()
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, sys.unraisablehook is before)
    print(interrupts.was_interrupted())
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\nTrue True\nFalse\n", "")


ABORTS = """
import os, signal
try: signal.raise_signal(signal.SIGINT)
except BaseException: os._exit(134)  # as a compiled module whose initialization calls Python
print("imported", flush=True)
"""


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_an_interrupt_waits_for_the_import_of_an_installed_package(tmp_path: Path, folder: str) -> None:
    package = tmp_path / folder / "compiled_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ABORTS)
    done = end_of("import compiled_package\nfor _ in range(500): time.sleep(0.01)\nprint('ran on')", path(package))
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", f"{LINE}\n")


def test_an_installed_program_is_interrupted(tmp_path: Path) -> None:
    program = tmp_path / "site-packages" / "program" / "__main__.py"
    program.parent.mkdir(parents=True)
    program.write_text(f"{BEGIN}\nwith interrupts.record_interrupts('', 130):\n    interrupt()\n    time.sleep(50)\n")
    done = run(f"import sys, runpy; sys.argv[0] = ''; runpy.run_path({str(program.parent)!r}, run_name='__main__')")
    assert done.returncode != 0 and done.stderr.endswith("KeyboardInterrupt\n")


def test_an_interrupt_does_not_wait_for_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nprint('imported')\n")
    done = end_of("import own_model", path(tmp_path / "own_model.py"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{LINE}\n")


def path(module: Path) -> str:
    return f"sys.path.insert(0, {str(module.parent)!r})"
