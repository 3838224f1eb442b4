"""Links in the folder of a model, as in the cache of huggingface_hub."""

import os
from pathlib import Path

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime import links
from fewstep.runtime.links import Home
from tests.refusals import refuses


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/w.bin").write_bytes(b"right")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "a"


def test_an_open_file_is_the_one_that_was_checked(folder: Path) -> None:
    with Home(folder).open(folder / "w.bin") as file:
        assert file.read() == b"right"


def test_a_link_put_there_between_the_check_and_the_opening_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = links._open_no_link

    def swap(path: str, flags: int) -> int:
        os.remove(folder / "w.bin")
        os.symlink(folder.parent / "secret", folder / "w.bin")
        return opener(path, flags)

    monkeypatch.setattr(links, "_open_no_link", swap)
    with pytest.raises(OSError, match="symbolic links"):
        Home(folder).open(folder / "w.bin")


def test_a_folder_swapped_between_the_check_and_the_opening_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last part of the path is not a link, so only the identity of the file shows the change."""
    opener, outside = links._open_no_link, folder.parent / "outside"
    (folder / "sub").mkdir()
    (folder / "sub/w.bin").write_bytes(b"right")
    outside.mkdir()
    (outside / "w.bin").write_bytes(b"secret")

    def swap(path: str, flags: int) -> int:
        (folder / "sub").rename(folder / "moved")
        os.symlink(outside, folder / "sub")
        descriptor = opener(path, flags)
        os.remove(folder / "sub")
        (folder / "moved").rename(folder / "sub")
        return descriptor

    monkeypatch.setattr(links, "_open_no_link", swap)
    with refuses("w.bin changed while it was read"):
        Home(folder).open(folder / "sub/w.bin")


def test_a_link_that_changes_while_a_library_reads_is_refused(folder: Path) -> None:
    (folder / "other").write_bytes(b"other")
    (folder / "link").symlink_to("w.bin")
    with refuses("link changed while it was read"), Home(folder).keep([folder / "link"]):
        os.remove(folder / "link")
        (folder / "link").symlink_to("other")


def test_a_link_swapped_back_is_refused(folder: Path) -> None:
    (folder / "other").write_bytes(b"other")
    (folder / "link").symlink_to("w.bin")
    with refuses("link changed while it was read"), Home(folder).keep([folder / "link"]):
        (folder / "link").rename(folder / "kept")
        (folder / "link").symlink_to("other")
        os.remove(folder / "link")
        (folder / "link").symlink_to("w.bin")


def test_files_that_stay_the_same_are_kept(folder: Path) -> None:
    (folder / "link").symlink_to("w.bin")
    with Home(folder).keep([folder / "link", folder / "w.bin"]):
        assert (folder / "link").read_bytes() == b"right"


def test_a_file_whose_sha256_is_known_may_have_hard_links(folder: Path) -> None:
    os.link(folder / "w.bin", folder.parent / "second")
    with pytest.raises(UserError, match="2 hard links"):
        Home(folder).resolve(folder / "w.bin")
    assert Home(folder, hashed=True).resolve(folder / "w.bin") == (folder / "w.bin").resolve()
