"""Which operations of a body onnxruntime leaves to one thread, and what two threads can gain at most.

    python -m benchmarks.races.lone_nodes BUNDLE [--body int8-cpu-x86] [--rows 2] [--calls 150]

A process runs the body on one thread, and one on two threads that sleep while they wait. onnxruntime's profile of the
first has the time of each node: its 10th percentile over calls counts, which other programs move little. The second
says how many parts of each node the other thread took: a node is alone where it took one in at most 2 % of the calls.
The limit is the time of all nodes over (alone + others / 2): handing parts over costs nothing in it.
"""

import json
import multiprocessing
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from benchmarks.options import parser_of, positive, refusing
from fewstep.runtime.backends import graph_of
from fewstep.runtime.backends.openvino_agreement import drawn
from fewstep.runtime.bundle.reading import open_bundle

SELDOM = 0.02  # of the calls
SHOWN = 12  # operations
KERNEL = "_kernel_time"  # ends the names of a profile's events


class Profiled(NamedTuple):
    """A node: its operation, milliseconds of a call, and the share of calls in which another thread took a part."""

    op: str
    milliseconds: float
    shared: float


def profile(path: Path, body: str, rows: int, threads: int, calls: int) -> dict[str, Profiled]:
    """The nodes of a body as onnxruntime runs them, by name."""
    bundle = open_bundle(path)
    graph = graph_of(bundle, body)
    feeds = dict(drawn(graph, {"batch": rows}, 0))
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = threads, True
        options.profile_file_prefix, options.log_severity_level = f"{folder}/profile", 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(str(bundle.graph(graph)), options, providers=["CPUExecutionProvider"])
        for _ in range(calls):
            session.run(None, feeds)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
    times, parts, ops, before = defaultdict[str, list[float]](list), defaultdict[str, list[int]](list), {}, 0
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(KERNEL):
            continue
        others = (event["args"].get("thread_scheduling_stats") or {}).get("sub_threads", {})
        taken = sum(int(each["num_run"]) for each in others.values())  # since the session began
        name = event["name"].removesuffix(KERNEL)
        times[name].append(event["dur"] / 1000)
        parts[name].append(taken - before)
        ops[name], before = event["args"]["op_name"], taken
    return {
        name: Profiled(op, float(np.percentile(times[name], 10)), float(np.mean(np.array(parts[name]) > 0)))
        for name, op in ops.items()
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--body", default="int8-cpu-x86")
    parser.add_argument("--rows", type=positive, default=2, help="of x in a call; a guided sample is two")
    parser.add_argument("--calls", type=positive, default=150)
    options = parser.parse_args(given)
    asked = [(options.bundle, options.body, options.rows, threads, options.calls) for threads in (1, 2)]
    with refusing(parser), multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        one, two = pool.starmap(profile, asked, chunksize=1)
    whole, alone, count = defaultdict[str, float](float), defaultdict[str, float](float), defaultdict[str, int](int)
    for name, node in one.items():
        is_alone = name in two and two[name].shared <= SELDOM
        whole[node.op] += node.milliseconds
        alone[node.op] += node.milliseconds * is_alone
        count[node.op] += is_alone
    print("| operation | ms on one thread | of them left to one | nodes |\n|---|---|---|---|")
    for op in sorted(whole, key=whole.__getitem__, reverse=True)[:SHOWN]:
        nodes = sum(node.op == op for node in one.values())
        print(f"| {op} | {whole[op]:.2f} | {alone[op]:.2f} | {count[op]} of {nodes} |")
    total, lone = sum(whole.values()), sum(alone.values())
    print(f"\n{lone:.2f} of {total:.2f} ms: two threads are at most {total / (lone + (total - lone) / 2):.2f}x as fast")


if __name__ == "__main__":
    main()
