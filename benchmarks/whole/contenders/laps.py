"""Seconds of a contender's loading and first two pictures, and its peak memory, as one line of JSON. Linux only.

It imports no package of the project, since each contender runs in an environment of its own.
"""

import json
import resource
import time
from collections.abc import Callable

SIZE, STEPS, PROMPT = 512, 4, "a cat on a mat"


def print_laps(load: Callable[[], Callable[[], object]]) -> None:
    """Load a contender, draw two pictures, and print the laps.

    load: returns the function that draws one picture of SIZE x SIZE in STEPS steps without guidance.
    """
    started = time.perf_counter()
    draw = load()
    laps = {"load": time.perf_counter() - started}
    for name in ("first", "second"):
        started = time.perf_counter()
        draw()
        laps[name] = time.perf_counter() - started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**laps, "peak": peak}))
