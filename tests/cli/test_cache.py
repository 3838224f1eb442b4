"""`fewstep cache` shows the folder with its sizes, and clears it by kind."""

import os
from pathlib import Path
from time import time

import pytest

from fewstep.runtime.machine import cache
from fewstep.runtime.machine.cache_contents import PURPOSES, contents
from tests.cli.conftest import Command, Document
from tests.refusals import assert_refusal


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.store("engines", "a.json", b"12345")
    cache.store("fitting", "b.npy", b"123")
    os.utime(tmp_path / "fewstep/fitting/b.npy", (0, time() - 3 * 86400))
    (tmp_path / "fewstep/of-another-version/inner").mkdir(parents=True)
    (tmp_path / "fewstep/of-another-version/inner/file").write_bytes(b"1234567")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_bytes(b"1")
    (tmp_path / "fewstep/link").symlink_to(tmp_path / "mine")
    return tmp_path / "fewstep"


def test_each_kind_has_its_number_size_and_age(folder: Path, document: Document, fewstep: Command) -> None:
    content = {each["kind"]: each for each in document("cache")["content"]}
    assert list(content) == ["engines", "fitting", "link", "of-another-version"]
    assert [(each["files"], each["bytes"]) for each in content.values()][::3] == [(1, 5), (1, 7)]
    assert content["fitting"]["days"] == [pytest.approx(3, abs=0.01)] * 2
    assert content["fitting"]["purpose"] and not content["link"]["purpose"]
    assert "unknown to this version" in fewstep("cache").out


def test_kinds_are_removed_and_what_links_lead_to_stays(folder: Path, document: Document, fewstep: Command) -> None:
    assert document("cache", "--clear", "engines,jit", "--dry-run")["would_remove"] == ["engines"]
    assert cache.read("engines", "a.json") == b"12345"
    assert document("cache", "--clear", "engines,jit")["removed"] == ["engines"]
    assert cache.read("engines", "a.json") is None and cache.read("fitting", "b.npy") == b"123"
    assert document("cache", "--clear", "all")["removed"] == ["fitting", "link", "of-another-version"]
    assert list(folder.iterdir()) == [] and (folder.parent / "mine/file").exists()
    assert "empty" in fewstep("cache").out


def test_a_kind_that_is_none_is_named(folder: Path, fewstep: Command) -> None:
    assert_refusal(fewstep("cache", "--clear", "../mine", code=1).err, names="no kind '../mine'", fix="engines")


def test_each_kind_says_its_purpose() -> None:
    assert set(PURPOSES) == set(cache.Purpose.__args__)


def test_a_file_that_goes_meanwhile_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder / "fitting/gone"
    monkeypatch.setattr("fewstep.runtime.machine.cache_contents._files", lambda path: [gone, *path.iterdir()])
    assert [(each.kind, each.files) for each in contents()][:2] == [("engines", 1), ("fitting", 1)]


def test_a_cache_folder_that_is_a_link_is_not_emptied(folder: Path, tmp_path: Path, fewstep: Command) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(moved)
    assert "it is a link" in fewstep("cache", "--clear", "all", code=1).err and (moved / "engines/a.json").is_file()
