"""The limits of a fuzzed call: it ends in time, refuses with one line and a fix, and reads nothing outside its
bundle and fewstep's cache.

Python reports each file that it opens and each folder that it lists to an audit hook. A hook stays for the life of
the process, so it is installed once and watches only inside a `guarded` block. Native code opens files without a
report: tests/runtime/bundle/test_reading.py tests that onnxruntime stays inside the bundle.
"""

import faulthandler
import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import package_of, read_entry_points
from fewstep.runtime.machine import cache

SECONDS = 20.0  # far more than any call takes; what takes longer hangs
EVENTS = ("open", "os.listdir", "os.scandir", "os.chmod", "os.remove", "os.rename", "os.symlink", "subprocess.Popen")

MACHINE = ("/proc/cpuinfo", os.path.realpath("/proc/self/cgroup"), "/sys/fs/cgroup")  # the CPU, and its limits
PYTHON = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}

_inside: list[str] = []  # the folder being watched; empty: nothing is
_outside: list[str] = []  # what was touched outside it


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside and event in EVENTS and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        allowed = _inside if event != "open" else (*_inside, *MACHINE, *PYTHON)  # modules imported late: codecs
        if not any(path == folder or path.startswith(folder + os.sep) for folder in allowed):
            _outside.append(f"{event} {path}")


for _plugin in read_entry_points():  # names of installed packages are read once, before anything is watched
    package_of(_plugin)
sys.addaudithook(_hook)


@contextmanager
def guard(folder: Path, names: str) -> Iterator[None]:
    """Run a block. A UserError in it must be one line with `names` and a fix; any other exception fails the test."""
    _outside.clear()
    _inside.extend(map(os.path.realpath, (folder, cache.folder())))  # the cache remembers which graphs were checked
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # native code that hangs cannot be interrupted
    started = time.monotonic()
    try:
        yield
    except UserError as error:
        _inside.clear()
        assert "\n" not in str(error) and len(error.what) > 8 and len(error.fix) > 8, str(error)
        assert names in str(error), f"{names!r} is not named in: {error}"
    finally:
        _inside.clear()
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - started < SECONDS
    assert not _outside, f"outside {folder}: {_outside}"
