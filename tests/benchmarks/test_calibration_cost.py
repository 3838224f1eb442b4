"""benchmarks/calibration_cost.py: its bars, its table, what watches memory, and all of it on a tiny network."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks import calibration_cost
from benchmarks.calibration_cost import Measured, bars, main
from benchmarks.command_cost import Cost, TooLarge, Unfinished, measure
from tests.calibration.test_calibrate import denoiser, write_bundle

MB = 10**6
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HOLDS = "import time; held = bytearray(b'x') * {megabytes}_000_000; time.sleep({seconds})"
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}]); print(len(sys.argv))"
GROWS = "import time; held = []\nwhile True: held.append(bytearray(b'x') * 10_000_000); time.sleep(0.005)  # {mark}"
# measures a command that sleeps, of which only the command's own line has the mark in it
MEASURES = """
import os, sys
from benchmarks.command_cost import measure
measure([sys.executable, "-c", "import time; time.sleep(600)  # " + os.environ["MARK"]])
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
COST = Cost(10.0, 20.0, 1000 * MB)
MEASURED = Measured(
    {4: COST, 8: replace(COST, seconds=12.0), 64: replace(COST, seconds=40.0, peak=1040 * MB)},
    {4: replace(COST, seconds=15.0), 8: replace(COST, seconds=30.0), 16: "killed above 9.0 GB"},
)


def test_time_is_compared_at_the_most_that_both_finished() -> None:
    peak, spread, seconds = bars(MEASURED, (4, 64))
    assert (peak.found, spread.found, seconds.found) == pytest.approx((1.04, 4.0, 0.4))
    assert "8 trajectories" in seconds.name
    assert peak.holds and spread.holds and seconds.holds


def test_each_bar_can_be_missed() -> None:
    large = {4: replace(COST, seconds=8.0, peak=3001 * MB), 64: replace(COST, peak=2800 * MB)}
    missed = bars(replace(MEASURED, ours=large), (4, 64))
    assert [bar.holds for bar in missed] == [False, False, False]
    assert all(str(bar).endswith("MISSED") for bar in missed)


def test_nothing_to_compare_with_is_missed() -> None:
    *_, seconds = bars(replace(MEASURED, theirs={4: "killed above 0.1 GB"}), (4, 64))
    assert not seconds.holds and "no trajectories" in seconds.name


def test_onnxruntime_gets_no_more_than_it_was_killed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(bundle: Path, n: int, memory: float) -> Cost:
        if n > 8:
            raise TooLarge(f"killed at {n}")
        return COST

    monkeypatch.setattr(calibration_cost, "ours", lambda bundle, n: COST)
    monkeypatch.setattr(calibration_cost, "theirs", theirs)
    found = calibration_cost.compare(Path("bundle"), (64, 4, 8, 16), 1.0, 1)
    assert list(found.ours) == [4, 8, 16, 64] and found.theirs == {4: COST, 8: COST, 16: "killed at 16"}
    assert found.compared == 8


@needs_proc
def test_memory_and_time_of_a_command_are_its_own() -> None:
    found = measure([sys.executable, "-c", HOLDS.format(megabytes=200, seconds=0.1)])
    assert 200 * MB < found.peak < 230 * MB
    assert found.seconds > 0.1 and 0 < found.processor < found.seconds + 1


@needs_proc
def test_what_a_command_starts_counts() -> None:
    found = measure([sys.executable, "-c", STARTS.format(code=HOLDS.format(megabytes=100, seconds=0.2))])
    assert 105 * MB < found.peak < 140 * MB  # two interpreters, and what one of them holds


@needs_proc
def test_a_command_that_grows_is_killed_with_what_it_started() -> None:
    mark = str(uuid4())
    with pytest.raises(TooLarge, match=r"killed above 0\.2 GB"):
        measure([sys.executable, "-c", STARTS.format(code=GROWS.format(mark=mark))], memory=200 * MB)
    assert wait_until(lambda: not running(mark))


@needs_proc
def test_who_is_told_to_end_ends_what_it_measures() -> None:
    mark = str(uuid4())
    environment = os.environ | {"MARK": mark, "PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen([sys.executable, "-c", MEASURES], env=environment) as measuring:
        assert wait_until(lambda: running(mark))
        measuring.terminate()
    assert measuring.returncode == 128 + 15
    assert wait_until(lambda: not running(mark))


@needs_proc
def test_what_a_command_leaves_behind_is_killed() -> None:
    mark = str(uuid4())
    left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {mark}'])"
    measure([sys.executable, "-c", left])
    assert wait_until(lambda: not running(mark))


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether something holds within a minute: the system takes a moment to start a process, and to end one."""
    begun = time.monotonic()
    while not holds() and time.monotonic() - begun < 60:
        time.sleep(0.05)
    return holds()


def running(mark: str) -> bool:
    """Whether a process with the mark in its command is there."""
    return any(mark.encode() in _command(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(Unfinished, match="^ValueError: too odd$"):
        measure([sys.executable, "-c", "raise ValueError('too odd')"])
    with pytest.raises(Unfinished, match="failed with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.slow
@needs_proc
def test_both_calibrate_a_tiny_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    before = {path.name for path in bundle.rglob("*")}
    assert main([str(bundle), "--trajectories", "4", "--runs", "1"]) in (0, 1)
    _, _, line, *held = capsys.readouterr().out.splitlines()
    assert line.split()[0] == "4" and line.count(" GB") == 2 and len(held) == 3 and "nan" not in str(held)
    assert {path.name for path in bundle.rglob("*")} == before  # a copy was calibrated


def test_fewer_trajectories_than_calibrate_tries_ways_on_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--trajectories", "2"])
    assert "at least 4" in capsys.readouterr().err


def test_what_is_no_bundle_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nothing")])
    assert "nothing" in capsys.readouterr().err.splitlines()[-1]
