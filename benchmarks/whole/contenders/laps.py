"""Seconds of a contender's loading and first two pictures, and its peak memory, as one line of JSON. Linux only.

It imports no package of the project, since each contender runs in an environment of its own.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
SIZE, STEPS, PROMPT = 512, 4, "a cat on a mat"


def print_laps(load: Callable[[], Callable[[], object]], stored: int | None = None) -> None:
    """Load a contender, draw two pictures, and print the laps.

    load: returns the function that draws one picture of SIZE x SIZE in STEPS steps without guidance.
    stored: the bytes of its files, if it does not read all of its folder.
    """
    laps: dict[str, float] = {}
    draw = _time("load", load, laps)
    for name in ("first", "second"):
        _time(name, draw, laps)
    laps |= {"peak": peak_bytes()} | ({} if stored is None else {"stored": stored})
    print(json.dumps(laps))


def _time(name: str, call: Callable[[], Result], laps: dict[str, float]) -> Result:
    """Call a function, and add its seconds, and those of all processors, to the laps. Return its result."""
    started, of_processors = time.perf_counter(), time.process_time()
    result = call()
    laps |= {name: time.perf_counter() - started, f"{name} processors": time.process_time() - of_processors}
    return result


def peak_bytes() -> int:
    """Return the largest resident memory of this process, including the pages of files that it maps."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
