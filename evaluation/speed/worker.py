"""The child process of race.py: opens one graph, then times as many runs as each line of stdin asks for.

    python worker.py REQUEST FEEDS.npz

REQUEST is JSON: threads, spinning, and either graph (onnxruntime opens it) or backend, bundle, network and body. It
says one JSON line when it is ready, and one, a list of seconds, per line it is asked. For a graph it imports nothing
but numpy and onnxruntime, so what it measures (memory too) is what a small program would pay.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

WARM_UP = 3  # runs: the first allocates, the second is the first without

Run = Callable[[dict[str, Any]], object]


def main(request: dict[str, Any], feeds_path: str) -> None:
    start = perf_counter()
    run = open_graph(request) if "graph" in request else open_body(request)
    load = perf_counter() - start
    with np.load(feeds_path) as archive:
        feeds = dict(archive)
    for _ in range(WARM_UP):
        run(feeds)
    say({"load": load, "peak_mib": peak_memory()})
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = perf_counter()
            run(feeds)
            seconds.append(perf_counter() - start)
        say(seconds)


def open_graph(request: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(request["spinning"])))
    # Threads spin inside a run and stop with it: the other contender gets a quiet machine.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(request["graph"], options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def open_body(request: dict[str, Any]) -> Run:
    from fewstep.runtime.backends.named import named
    from fewstep.runtime.bundle.reading import open_bundle

    bundle = open_bundle(request["bundle"]).network(request["network"])
    return named(request["backend"], request["threads"]).load(bundle, request["body"])


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
    del sys.path[0]  # the folder of this file, whose modules are no top-level modules
    main(json.loads(sys.argv[1]), sys.argv[2])
