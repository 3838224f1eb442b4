"""What the forms of an int8 body for CPUs save: the same ranges lowered with and without them, beside another tool's.

    python benchmarks/races/cpu_forms.py BUNDLE [--samples 1,8] [--rounds 15] [--beside GRAPH.onnx] [--profile]

The bundle is calibrated for cpu-x86. Its ranges are lowered again: as they are deployed, with each scale and shift of
channels apart (`lowering/channelwise.py`), and with scales of channels as products as well (`lowering/multiplied.py`).
The float32 body takes part. `--beside` adds a graph of another tool, which was made of that body. Each contender runs
in a process of its own, and they take turns. A row has the medians of a call on one thread, by wall time and by the
processor's time. Behind them stands the processor's time relative to the first row. `--profile` prints the time of each
kind of operation instead, as onnxruntime's profiler has it.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the tools of all benchmarks lie

from counts import several
from lowered import calibrated, written
from turns import Call, Opener, in_turns

from fewstep.evaluation.speed.benchmark_feeds import feeds
from fewstep.graph.graph import Array, Graph
from fewstep.lowering import quantize
from fewstep.lowering.bodies import judged_plan, open_body
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.plans.errors import UserError
from fewstep.ranges.table import RangesTable
from fewstep.runtime.bundle.reading import open_bundle

BODY = "int8-cpu-x86"
CALLS = 30  # of a profile


def forms(prepared: Graph, table: RangesTable) -> Mapping[str, Graph]:
    apart = replace(CPU_X86, finish=())
    with patch.object(quantize, "with_free_products", lambda graph, encodings: graph):
        products = quantize.lower_graph(prepared, table, apart)[0]
    return {
        "as deployed": quantize.lower_graph(prepared, table, CPU_X86)[0],
        "scale and shift apart": quantize.lower_graph(prepared, table, apart)[0],
        "and channels as products": products,
    }


def opened(path: Path, fed: Mapping[str, Array], profile: Path | None = None) -> Any:
    """A session on one thread, and what it takes of the feeds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, {each.name: fed[each.name] for each in session.get_inputs()}


def called(path: Path, feeds_path: Path) -> Call:
    with np.load(feeds_path) as archive:
        session, given = opened(path, dict(archive))
    return lambda: session.run(None, given)


def profile(path: Path, fed: Mapping[str, Array], folder: Path) -> list[tuple[str, int, float]]:
    """Kinds of operations, their number, and milliseconds of a call: the longest first."""
    session, given = opened(path, fed, folder / "profile")
    for _ in range(CALLS):
        session.run(None, given)
    events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    found: dict[str, list[float]] = defaultdict(list)
    for (kind, _), each in times.items():
        found[kind].append(median(each))
    rows = [(kind, len(each), sum(each)) for kind, each in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--samples", type=several, default="1,8", help="of one call, several with commas; a guided one is two rows"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn-seconds", type=float, default=0.5)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="graph of another tool")
    parser.add_argument("--profile", action="store_true", help="print the time of each kind of operation")
    options = parser.parse_args()
    try:
        bundle = open_bundle(options.bundle)
        with open_body(bundle, BODY, 1) as sampler, TemporaryDirectory() as name:
            folder = Path(name)
            plan = judged_plan(sampler, bundle.body(BODY))
            paths = written(forms(*calibrated(bundle, CPU_X86)), folder) | {path.name: path for path in options.beside}
            paths["float32"] = bundle.graph(bundle.body("float32").graph)
            for samples in options.samples:
                fed: dict[str, Any] = dict(feeds(sampler, plan, samples))
                print(f"{samples} samples:")
                if options.profile:
                    for form, path in paths.items():
                        print(f"  {form}:")
                        for kind, count, milliseconds in profile(path, fed, folder):
                            print(f"    {kind:<24}{count:4d} {milliseconds:8.3f} ms")
                    continue
                np.savez(folder / "feeds.npz", **fed)
                openers: dict[str, Opener] = {
                    form: partial(called, path, folder / "feeds.npz") for form, path in paths.items()
                }
                found = in_turns(openers, options.rounds, options.turn_seconds)
                first = next(iter(found.values()))
                for form, times in found.items():
                    _, faster = times.against(first)
                    wall, processor = (1e3 * median(each) for each in (times.wall, times.processor))
                    print(f"  {form:<34} {wall:8.2f} ms {processor:8.2f} ms of processor {1 / faster:6.3f}")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
