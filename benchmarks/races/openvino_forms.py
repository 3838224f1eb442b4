"""What the forms of an OpenVINO body save: the same ranges lowered with and without them, timed in turns on this CPU.

    python benchmarks/races/openvino_forms.py BUNDLE [--samples 1,8] [--rounds 30] [--beside GRAPH.onnx]

The bundle is calibrated for openvino. Its ranges are lowered again: as they are deployed, and with GroupNorm as it was
exported. `--beside` adds a graph of another tool, which was made of the same float32 body. A row has the median of the
processor's time of a call, on one thread, and its share of the first row's. It also has the number of reorders of large
pictures that OpenVINO puts between layers. The processor's time depends little on other programs. The machine should do
nothing else all the same.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the tools of all benchmarks lie

from counts import several
from lowered import calibrated, written

from fewstep.evaluation.speed.benchmark_feeds import feeds
from fewstep.graph.graph import Array, Graph
from fewstep.graph.passes.group_norm import LEAST
from fewstep.lowering.bodies import judged_plan, open_body
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.scheme import Target
from fewstep.lowering.targets.openvino import OPENVINO
from fewstep.plans.errors import UserError
from fewstep.ranges.table import RangesTable
from fewstep.runtime.backends.openvino import OpenVino, read
from fewstep.runtime.bundle.reading import open_bundle

BODY = "int8-openvino"
FORMS: Mapping[str, Target] = {"as deployed": OPENVINO, "GroupNorm as exported": replace(OPENVINO, rewrites=())}


def forms(prepared: Graph, table: RangesTable) -> Mapping[str, Graph]:
    return {name: lower_graph(prepared, table, target)[0] for name, target in FORMS.items()}


def opened(path: Path, fed: Mapping[str, Array]) -> tuple[Callable[[], object], int]:
    """A call on one thread, and the number of reorders of large pictures."""
    backend = OpenVino(threads=1, cached=False)
    core = backend.core()
    model = read(core, path)
    given = {name: fed[name] for name in (port.any_name for port in model.inputs)}
    compiled = backend.compile(core, model, path.name, {name: list(each.shape) for name, each in given.items()})
    layers: list[Any] = compiled.get_runtime_model().get_ops()
    reorders = [layer for layer in layers if layer.get_rt_info()["layerType"].astype(str) == "Reorder"]
    large = LEAST * len(next(iter(given.values())))
    return lambda: compiled(given), sum(int(np.prod(layer.output(0).shape)) >= large for layer in reorders)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--samples", type=several, default="1,8", help="of one call, several with commas; a guided one is two rows"
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="graph of another tool")
    options = parser.parse_args()
    try:
        bundle = open_bundle(options.bundle)
        with open_body(bundle, BODY, 1) as sampler, TemporaryDirectory() as folder:
            plan = judged_plan(sampler, bundle.body(BODY))
            paths = written(forms(*calibrated(bundle, OPENVINO)), Path(folder)) | {
                path.name: path for path in options.beside
            }
            for samples in options.samples:
                fed = feeds(sampler, plan, samples)
                calls = {name: opened(path, fed) for name, path in paths.items()}
                seconds: dict[str, list[float]] = {name: [] for name in calls}
                for _ in range(options.rounds):
                    for name, (call, _) in calls.items():
                        call()  # the first finds a cold cache
                        began = process_time()
                        call()
                        seconds[name].append(process_time() - began)
                medians = {name: float(np.median(each)) for name, each in seconds.items()}
                first = next(iter(medians.values()))
                print(f"{samples} samples:")
                for name, median in medians.items():
                    share, reorders = median / first, calls[name][1]
                    print(f"  {name:<34} {1e3 * median:8.2f} ms {share:6.3f}  {reorders:3d} reorders")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
