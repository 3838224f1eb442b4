"""The child process of speed.py: opens one graph, then times as many runs as each line of stdin asks for.

    python speed_worker.py GRAPH FEEDS.npz THREADS

Says one JSON line when it is ready, and one, a list of seconds, per request. Imports nothing but numpy and
onnxruntime, so what it measures (memory too) is what a small program would pay.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime

WARM_UP = 3  # runs: the first allocates, the second is the first without


def main(graph: str, feeds_path: str, threads: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads spin inside a run and stop with it: the other contender gets a quiet machine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    start = perf_counter()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    load = perf_counter() - start
    with np.load(feeds_path) as archive:
        feeds = dict(archive)
    for _ in range(WARM_UP):
        session.run(None, feeds)
    say({"load": load, "peak_mib": peak_memory()})
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = perf_counter()
            session.run(None, feeds)
            seconds.append(perf_counter() - start)
        say(seconds)


def peak_memory() -> float:
    """The most memory this process has had resident, in MiB; 0 where the system does not say.

    Not getrusage: on Linux its figure survives exec, and starts at what the parent process had.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
