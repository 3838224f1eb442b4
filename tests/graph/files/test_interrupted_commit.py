"""Interrupted writers: a bundle is the old one or the new one, wherever its writer is killed or its disk is full."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fewstep.graph import graph
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.interrupts import record_interrupts
from tests.cli.conftest import as_in_a_terminal
from tests.graph.files.test_commit import manifest, write

ROOT = Path(__file__).parents[3]
KILLED = """
import os, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.graph.files.test_commit import content_of, files_of, write

def dying(function, fatal, after):
    def call(*arguments, **options):
        global count
        count += 1
        if count == fatal and not after:
            die()
        try:
            return function(*arguments, **options)
        finally:
            if count == fatal:
                die()
    return call

def interrupt():
    raise KeyboardInterrupt

bundle, old = Path(sys.argv[2]), sys.argv[3].encode()
die = interrupt if sys.argv[4] == "interrupt" else lambda: os._exit(9)
for fatal in range(1, 1000):
    for after in (False, True):
        if old:
            write(bundle, old)
        child = os.fork()
        if child == 0:
            count = 0
            for name in ("open", "fsync", "replace", "unlink", "mkdir", "rmdir"):
                setattr(os, name, dying(getattr(os, name), fatal, after))
            try:
                write(bundle, b"new")
            except KeyboardInterrupt:
                os._exit(9)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = content_of(bundle) if (bundle / "manifest.json").exists() else b""
        assert found in (old, b"new"), (fatal, after, found)
        write(bundle, b"next")  # no lock is left over, no garbage stays
        assert content_of(bundle) == b"next" and len(files_of(bundle)) == 2, (fatal, files_of(bundle))
        if not old:
            for file in files_of(bundle):
                (bundle / file).unlink()
    if status == 0:
        print(fatal)
        break
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("end", ["kill", "interrupt"])
@pytest.mark.parametrize("old", ["", "old"])
def test_an_end_at_any_write_leaves_the_old_bundle_or_the_new(tmp_path: Path, old: str, end: str) -> None:
    """The child is killed, or interrupted from the keyboard, before or after each call that changes the disk."""
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT), str(tmp_path / "bundle"), old, end], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 15  # it did die at many points


FULL = """
import resource, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.graph.files.test_commit import content_of, files_of, write
from tests.graph.files.test_interrupted_commit import write_weights
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError

bundle = Path(sys.argv[2])
write(bundle, b"old")
old = files_of(bundle)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 100, 1_000, 10_000):  # bytes a file may have: nothing fits, then less and less does not
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for attempt in (lambda: write(bundle, b"new" * 10_000), lambda: write_weights(bundle)):
        try:
            attempt()
        except UserError as error:
            assert "cannot be written" in str(error) and "free space" in error.fix, error
        else:
            raise AssertionError(limit)
        assert files_of(bundle) == old and content_of(bundle) == b"old"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(bundle, b"new")
assert content_of(bundle) == b"new"
print("whole")
"""


def write_weights(bundle: Path) -> None:
    """Write a graph with its weights in a separate file, which `add` does not write."""
    value = graph.Value("x", np.dtype(np.float32), (graph.BATCH, 4096))
    made = graph.Graph("g", (value,), (value,), (), {"weights": np.ones(4096, np.float32)})
    with open_for_update(bundle, must_exist=True) as writer:
        io.store(writer, made, "body", external_above=0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_full_disk_leaves_the_old_bundle_and_says_so(tmp_path: Path) -> None:
    """A limit on the size of files makes writes fail like a full disk, wherever they occur."""
    process = subprocess.run(
        [sys.executable, "-c", FULL, str(ROOT), str(tmp_path / "bundle")], capture_output=True, text=True
    )
    assert process.stdout == "whole\n", process.stderr


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Set Python's handler of SIGINT. A background job of a shell starts with SIGINT ignored, and Python leaves it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("default_sigint")
def test_nothing_is_committed_after_an_interrupt_that_a_library_swallowed(tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    previous = write(bundle, b"previous")
    with (
        pytest.raises(KeyboardInterrupt),
        record_interrupts("interrupted", 130),
        open_for_update(bundle, must_exist=True) as writer,
    ):
        file = writer.add(b"new", folder="graphs", name="body", suffix=".onnx")
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        writer.commit(manifest(file))
    assert open_bundle(bundle).manifest == previous
    assert len(list((bundle / "graphs").iterdir())) == 1


TRACED = """
import os, shutil, signal, sys
from pathlib import Path
import fewstep.graph.files.commit as commit
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.interrupts import record_interrupts

def write(bundle):
    with commit.open_for_update(bundle, must_exist=True) as writer:
        writer.add(b"new", folder="graphs", name="other", suffix=".onnx")
        writer.commit(writer.manifest)

def interrupt_at(line, bundle):  # the exit code: 130, 0 if there are fewer lines
    lines = []
    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith(("graph/files/commit.py", "runtime/interrupts.py", "contextlib.py")):
            return None
        if event == "line":
            lines.append(1)
            if len(lines) == line:
                signal.raise_signal(signal.SIGINT)
        return trace
    try:
        with record_interrupts("interrupted", 130):
            sys.settrace(trace)
            try: write(bundle)
            finally: sys.settrace(None)
    except KeyboardInterrupt:
        return 130
    return 0

whole, number = Path(sys.argv[1]), 0
before = {path.relative_to(whole) for path in whole.rglob("*")}
while True:
    number += 1
    bundle = whole.with_name(f"b{number}")
    shutil.copytree(whole, bundle)
    code = interrupt_at(number, bundle)
    if code == 0:
        break
    left = {path.relative_to(bundle) for path in bundle.rglob("*")} - before
    if left:
        print(number, sorted(map(str, left)))
    shutil.rmtree(bundle)
print(number, file=sys.stderr)
"""


@pytest.mark.slow
def test_an_interrupt_at_any_line_of_a_writer_leaves_nothing(tmp_path: Path) -> None:
    """Interrupt at each line of the code that locks, commits and cleans up."""
    write(tmp_path / "b", b"previous")
    command = [sys.executable, "-c", TRACED, str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=as_in_a_terminal)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
    assert int(done.stderr) > 200
