"""The user's cache folder."""

import errno
import logging
import os
from pathlib import Path
from time import time

import pytest

from fewstep.runtime.bundle import engine_files
from fewstep.runtime.machine import cache


def test_what_is_stored_is_read_back_from_the_users_folder() -> None:
    assert cache.read("timing", "a.cache") is None
    cache.store("timing", "a.cache", b"one")
    cache.store("timing", "a.cache", b"two")
    assert cache.read("timing", "a.cache") == b"two"
    assert [path.name for path in (cache.folder() / "timing").iterdir()] == ["a.cache"]  # no drafts


def test_damage_is_no_content(caplog: pytest.LogCaptureFixture) -> None:
    cache.store_intact("fitting", "a.npy", b"numbers")
    assert cache.read_intact("fitting", "a.npy") == b"numbers"
    file = cache.path("fitting", "a.npy")
    for damaged in (file.read_bytes()[:-1] + b"z", file.read_bytes()[:-2], b"", b"numbers"):
        caplog.clear()
        file.write_bytes(damaged)
        assert cache.read_intact("fitting", "a.npy") is None
        assert f"{file} is damaged, and is made again" in caplog.text


def test_without_the_variable_it_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache.folder().is_relative_to(tmp_path) and cache.folder().name == "fewstep"


def test_a_folder_that_cannot_be_written_is_one_warning_of_a_run_that_stores_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, folder in enumerate(("one", "other"), 1):
        (tmp_path / folder).write_bytes(b"")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        for name in ("a", "b"):
            cache.store("calibration", name, b"counts")
            cache.store("agreement", name, b"times")
            assert cache.read("agreement", name) is None
        assert caplog.text.count("cannot be written") == number


def test_a_relative_variable_does_not_let_the_working_folder_say_what_was_built_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted/fewstep/engines").mkdir(parents=True)
    (tmp_path / "planted/fewstep/engines/0123.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "planted")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert not engine_files.was_built_here("0123") and cache.folder().is_relative_to(tmp_path / "home")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with caplog.at_level(logging.WARNING, logger="fewstep"):
        cache.store("jit", "a.jit", b"compiled")
    assert "jit/a.jit cannot be written (Could not determine home directory.)" in caplog.text
    assert cache.read("jit", "a.jit") is None


def test_drafts_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a failed write and of killed writers are removed, but not one that may still be written."""
    folder = cache.folder() / "timing"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(cache.os, "replace", full)
        cache.store("timing", "a.cache", b"one")
    assert not list(folder.iterdir())
    for name, age in ((".a.cache.1", 2), (".a.cache.2", 0), (".b.cache.1", 2)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time() - age * 3600,) * 2)
    cache.store("timing", "a.cache", b"one")
    assert {path.name for path in folder.iterdir()} == {"a.cache", ".a.cache.2", ".b.cache.1"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_in_the_folder_is_not_waited_for() -> None:
    cache.store("fitting", "a.npy", b"one")
    os.mkfifo(cache.folder() / "fitting/b.npy")
    assert cache.read("fitting", "b.npy") is None
