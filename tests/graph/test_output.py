"""A file outside a bundle is written whole, or stays as it was, and what is in the way is one line."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.output import check_writable, whole_file, write_whole
from fewstep.plans.errors import UserError


def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write_whole(path, b"old")
    with whole_file(path) as stream:
        np.save(stream, np.arange(3))
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_link_goes_on_leading_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("by_numpy", [False, True])
def test_a_full_disk_leaves_the_former_file_and_is_named(tmp_path: Path, by_numpy: bool) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit to what a file may have")
    path = tmp_path / "cat.npy"
    write_whole(path, b"old")
    limits, on_limit = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError) as failure, whole_file(path) as stream:
            if by_numpy:
                np.save(stream, np.zeros(10_000))
            else:
                stream.write(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, on_limit)
    assert f"{path} cannot be written (" in failure.value.what and "space" in failure.value.fix
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["cat.npy"]


def test_what_the_block_raises_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), whole_file(tmp_path / "x.png"):
        raise ValueError("mine")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_that_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match=r"x\.png cannot be written \(Is a directory\)"):
        write_whole(tmp_path / "x.png", b"new")
    assert os.listdir(tmp_path) == ["x.png"]


def test_where_a_file_can_be_made_is_found_out_before_it_is_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "x.html")
    assert os.listdir(tmp_path) == []
    write_whole(tmp_path / "x.html", b"old")
    check_writable(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == b"old"
    with pytest.raises(UserError, match=f"there is no folder {tmp_path / 'no'}"):
        check_writable(tmp_path / "no" / "x.html")
    with pytest.raises(UserError, match="is a folder; give the path of a file"):
        check_writable(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_takes_no_files_is_one_line() -> None:
    with pytest.raises(UserError, match=r"/proc/x.html cannot be written \(.*\); check the permissions of its folder"):
        check_writable(Path("/proc/x.html"))
