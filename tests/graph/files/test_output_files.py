"""A device, a pipe or a socket is never replaced by an output file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.graph.files.output_files import check_writable, write_atomic
from tests.refusals import refuses


def write(path: Path) -> None:
    write_atomic(path, b"new")


@pytest.mark.parametrize("use", [check_writable, write])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_pipe_is_refused_and_kept(tmp_path: Path, use: Callable[[Path], None], is_link: bool) -> None:
    pipe, path = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    path.symlink_to(pipe)
    with refuses("a pipe or a socket", "path of a file"):
        use(path if is_link else pipe)
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == [path, pipe]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    write(file)
    assert file.read_bytes() == b"new"
