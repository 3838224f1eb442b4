"""benchmarks/interrupts.py: commands that are interrupted at random moments."""

import sys
from pathlib import Path

import pytest

from benchmarks.interrupts import _inspect, main
from fewstep.runtime.bundle.reading import LOCK, MANIFEST, open_bundle


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupted_commands_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "10"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("| all | 10 |")


def test_a_bundle_that_did_not_change_is_as_before(tiny_bundle: Path) -> None:
    before, whole = (tiny_bundle / MANIFEST).read_bytes(), open_bundle(tiny_bundle).manifest
    assert _inspect(tiny_bundle, before, whole, may_be_left=False) == ("as before", [])


def test_a_changed_bundle_with_all_that_the_command_makes_is_finished(tiny_bundle: Path) -> None:
    assert _inspect(tiny_bundle, b"{}", open_bundle(tiny_bundle).manifest, may_be_left=False) == ("finished", [])


def test_a_bundle_without_its_manifest_is_lost(tiny_bundle: Path) -> None:
    before, whole = (tiny_bundle / MANIFEST).read_bytes(), open_bundle(tiny_bundle).manifest
    (tiny_bundle / MANIFEST).unlink()
    state, faults = _inspect(tiny_bundle, before, whole, may_be_left=False)
    assert state == "lost" and faults[-1] == "the bundle is lost"


def test_a_file_that_is_left_over_is_a_fault(tiny_bundle: Path) -> None:
    before, whole = (tiny_bundle / MANIFEST).read_bytes(), open_bundle(tiny_bundle).manifest
    (tiny_bundle / LOCK).touch()
    assert _inspect(tiny_bundle, before, whole, may_be_left=True) == ("as before", [])
    (tiny_bundle / LOCK).touch()
    assert _inspect(tiny_bundle, before, whole, may_be_left=False)[1] != []
