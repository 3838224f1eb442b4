"""The user's cache folder."""

import logging
from pathlib import Path

import pytest

from fewstep.runtime import cache, engines


def test_what_is_stored_is_read_back_from_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.read("timing", "a.cache") is None
    cache.store("timing", "a.cache", b"one")
    cache.store("timing", "a.cache", b"two")
    assert cache.read("timing", "a.cache") == b"two"
    assert [path.name for path in (tmp_path / "fewstep/timing").iterdir()] == ["a.cache"]  # no drafts


def test_without_the_variable_it_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache.folder().is_relative_to(tmp_path) and cache.folder().name == "fewstep"


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="fewstep"):
        cache.store("engines", "a.json", b"{}")
    assert "cannot be written" in caplog.text and cache.read("engines", "a.json") is None


def test_a_relative_variable_does_not_let_the_working_folder_say_what_was_built_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted/fewstep/engines").mkdir(parents=True)
    (tmp_path / "planted/fewstep/engines/0123.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "planted")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert not engines.was_built_here("0123") and cache.folder().is_relative_to(tmp_path / "home")


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
